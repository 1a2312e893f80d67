"""Filter gradients for few channels per group: a product and a sum for each tap.

XLA:CPU vectorizes a sum of arrays, but not a reduction of a product, and computes small arrays
inside a loop on one core. So rows of outputs are added up, each times the rows that a tap meets,
and the arrays of all taps are then reduced. With few taps, tiles of outputs are.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax._convolution import Convolution, accumulator
from grouped_conv_jax._implementations import parts, regions, shifts, tiles, turns

# Rows of outputs that are added up at once for filters of more taps: of more, the caches do not
# keep as many streams apart; of fewer, the arrays of sums would be larger than the images.
_ROWS = 28
# Taps whose sums are made and reduced at once. With 3 to 7 it takes 0.5 to 1 of the time of all at
# once, and less memory; XLA fuses the reduction of one with its sum, five times slower.
_TAPS_A_TURN = 4
# With more taps, those along the first axis share a product; with more still, a row of them has
# sums of its own.
_FEW, _MANY = 25, 256
# More products than this are looped over, since the time to compile grows with them.
_PRODUCTS = 768
# Rows of outputs that such a loop adds up together, at least.
_FEWEST_ROWS = 8
# More accumulators than this, row by row.
_ACCUMULATORS = 24


def correlate(image: jax.Array, cotangent: jax.Array, convolution: Convolution) -> jax.Array:
    """``(*filter, G)``: for each tap the sum over batch and outputs of window times cotangent.

    Args:
        image: ``(B, *image, G)``.
        cotangent: ``(B, *outputs, G)``.
        convolution: of which this is the filter gradient.
    """
    if tiles.suits(convolution):
        return tiles.correlate(image, cotangent, convolution)
    if len(convolution.image) == 1:
        flat = dataclasses.replace(
            convolution,
            image=(1, *convolution.image),
            filter_size=(1, *convolution.filter_size),
            strides=(1, *convolution.strides),
            padding=((0, 0), *convolution.padding),
            dilation=(1, *convolution.dilation),
        )
        return correlate(image[:, None], cotangent[:, None], flat)[0]
    taps = math.prod(convolution.filter_size)
    products = convolution.outputs[0] * taps
    if taps <= _FEW and products <= _PRODUCTS:
        return _sums_of_rows(image, cotangent, convolution, 1)
    if taps <= _MANY and products <= _PRODUCTS * convolution.filter_size[0]:
        image, convolution = _padded(image, convolution, 1)
        return _sums_of_rows(image, cotangent, convolution, convolution.filter_size[0])
    rows = parts.divisor_up_to(convolution.outputs[0], _ROWS)
    if taps <= _MANY and rows >= _FEWEST_ROWS and rows < convolution.outputs[0]:
        return _in_slabs(*_padded(image, convolution, 1), cotangent, rows)
    padded, unpadded = _padded(image, convolution, len(convolution.image))
    if taps > _ACCUMULATORS and convolution.filter_size[0] > 1:
        return _row_by_row(padded, cotangent, unpadded)
    return _accumulated(padded, cotangent, unpadded)


def _padded(image: jax.Array, convolution: Convolution, axes: int) -> tuple[jax.Array, Convolution]:
    """The image with its zeros along the first axes, and what is left to be done."""
    count = len(convolution.image)
    none = ((0, 0),) * count
    padding = (*convolution.padding[:axes], *none[axes:])
    return shifts.pad(image, padding), dataclasses.replace(
        convolution,
        image=(*convolution.padded[:axes], *convolution.image[axes:]),
        padding=(*none[:axes], *convolution.padding[axes:]),
    )


def _sums_of_rows(
    image: jax.Array, cotangent: jax.Array, convolution: Convolution, together: int
) -> jax.Array:
    """Sums of a few rows of outputs, times what taps meet, with an axis for the taps.

    Args:
        image: as in :func:`correlate`.
        cotangent: likewise.
        convolution: likewise.
        together: how many taps along the first axis share a product. Where it is not one, there
            must be no padding along that axis, for all of them to meet every row.
    """
    stride, *strides = convolution.strides
    dilation, *dilations = convolution.dilation
    before, *befores = (before for before, _ in convolution.padding)
    dtype = accumulator(image, cotangent)
    taps = list(
        itertools.product(
            range(0, convolution.filter_size[0], together),
            *map(range, convolution.filter_size[1:]),
        )
    )
    images = _images_added(cotangent.shape[0], convolution.outputs[0])

    def product(row: int, tap: int, other: Sequence[regions.Region], first: int) -> jax.Array:
        starts = [
            region.shifts[0].start + region.start * step
            for region, step in zip(other, strides, strict=True)
        ]
        counts = [region.count for region in other]
        window = shifts.window(
            image,
            [row * stride + tap * dilation - before, *starts],
            [together, *counts],
            [dilation, *strides],
            first,
            images,
        )
        ones = [1] * len(counts)
        met = shifts.window(
            cotangent,
            [row, *(region.start for region in other)],
            [1, *counts],
            [1, *ones],
            first,
            images,
        )
        return window.astype(dtype) * met.astype(dtype)

    def total(chosen: list[regions.Region], rows: Sequence[int], tap: int) -> jax.Array:
        """The sum over one region of each axis but the first."""
        batch, channels = image.shape[0] // images, image.shape[-1]
        products = [
            product(row, tap, chosen, first)
            for row in rows
            if 0 <= row * stride + tap * dilation - before < image.shape[1]
            for first in range(images)
            if all(region.shifts for region in chosen)
        ]
        if products:
            return shifts.add_up([products])
        return jnp.zeros((batch, together, *(r.count for r in chosen), channels), dtype)

    def whole(rows: Sequence[int], tap: Sequence[int]) -> jax.Array:
        axes = [
            regions.divide(size, [regions.Shift(0, i * step - lead)], count, pace)
            for size, i, step, lead, count, pace in zip(
                image.shape[2:-1],
                tap[1:],
                dilations,
                befores,
                convolution.outputs[1:],
                strides,
                strict=True,
            )
        ]
        return regions.concatenate(axes, lambda chosen: total(chosen, rows, tap[0]), 2)

    def add(rows: Sequence[int], some: range, total: jax.Array) -> jax.Array:
        stacked = jnp.stack([whole(rows, taps[i]) for i in some], 1)
        sums = stacked.sum((0, *range(3, stacked.ndim - 1)))
        others = [(some.start, len(taps) - some.stop, 0), (0, 0, 0), (0, 0, 0)]
        return total + lax.pad(sums, jnp.zeros((), dtype), others)

    row_turns = parts.ranges(convolution.outputs[0], _ROWS)
    tap_turns = parts.ranges(len(taps), _TAPS_A_TURN)
    gradient = turns.take(
        [functools.partial(add, *turn) for turn in itertools.product(row_turns, tap_turns)],
        jnp.zeros((len(taps), together, image.shape[-1]), dtype),
    )
    # (taps, together, G) to (*filter, G)
    gradient = gradient.reshape(-1, *convolution.filter_size[1:], *gradient.shape[1:])
    return jnp.moveaxis(gradient, -2, 1).reshape(*convolution.filter_size, -1)


def _images_added(batch: int, rows: int) -> int:
    """How many images are added up at once, where one has few rows."""
    if not isinstance(batch, int):
        # An exported program's batch may not be known.
        return 1
    return parts.divisor_up_to(batch, _ROWS // rows)


def _accumulated(image: jax.Array, cotangent: jax.Array, convolution: Convolution) -> jax.Array:
    """One row of outputs at a time, into one accumulator a tap."""
    dtype = accumulator(image, cotangent)
    taps = list(itertools.product(*map(range, convolution.filter_size)))
    rest = convolution.outputs[1:]
    extent = convolution.effective_filter_size[0]

    def add(row: jax.Array, totals: list[jax.Array]) -> list[jax.Array]:
        rows = lax.dynamic_slice_in_dim(image, row * convolution.strides[0], extent, 1)
        outputs = lax.dynamic_slice_in_dim(cotangent, row, 1, 1)
        rows, outputs = lax.optimization_barrier((rows, outputs))
        return [
            total
            + shifts.window(
                rows,
                [i * d for i, d in zip(tap, convolution.dilation, strict=True)],
                (1, *rest),
                (1, *convolution.strides[1:]),
            ).astype(dtype)
            * outputs.astype(dtype)
            for total, tap in zip(totals, taps, strict=True)
        ]

    zeros = jnp.zeros((cotangent.shape[0], 1, *cotangent.shape[2:]), dtype)
    totals = lax.fori_loop(0, convolution.outputs[0], add, [zeros] * len(taps))
    sums = [total.sum(tuple(range(total.ndim - 1))) for total in totals]
    return jnp.stack(sums).reshape(*convolution.filter_size, -1)


def _in_slabs(
    image: jax.Array, convolution: Convolution, cotangent: jax.Array, rows: int
) -> jax.Array:
    """A few rows of outputs at a time, of an image without padding along the first axis."""
    stride = convolution.strides[0]
    size = (rows - 1) * stride + convolution.effective_filter_size[0]
    slab = dataclasses.replace(convolution, image=(size, *convolution.image[1:]))

    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        met = lax.dynamic_slice_in_dim(image, i * rows * stride, size, 1)
        outputs = lax.dynamic_slice_in_dim(cotangent, i * rows, rows, 1)
        return total + correlate(met, outputs, slab)

    zeros = jnp.zeros((*convolution.filter_size, image.shape[-1]), accumulator(image, cotangent))
    return lax.fori_loop(0, convolution.outputs[0] // rows, add, zeros)


def _row_by_row(image: jax.Array, cotangent: jax.Array, convolution: Convolution) -> jax.Array:
    """Each row of taps from the rows of the image that it meets."""
    size = ((convolution.outputs[0] - 1) * convolution.strides[0] + 1, *convolution.image[1:])
    row = dataclasses.replace(
        convolution, image=size, filter_size=(1, *convolution.filter_size[1:])
    )

    def of_row(start: jax.Array) -> jax.Array:
        return correlate(lax.dynamic_slice_in_dim(image, start, size[0], 1), cotangent, row)

    starts = jnp.arange(convolution.filter_size[0]) * convolution.dilation[0]
    return lax.map(of_row, starts)[:, 0]
