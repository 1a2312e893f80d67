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
# Along one axis, no more taps than this are compiled at once, of no more than a part of the groups,
# or the images of turns within turns would be larger than inputs and outputs.
_TAPS_OF_A_LINE, _PARTS_OF_A_LINE = 64, 2
# More products than this for each row of taps are looped over, since they take time to compile.
_PRODUCTS = 768


def correlate(image: jax.Array, cotangent: jax.Array, convolution: Convolution) -> jax.Array:
    """``(*filter, G)``: for each tap the sum over batch and outputs of window times cotangent.

    Args:
        image: ``(B, *image, G)``.
        cotangent: ``(B, *outputs, G)``.
        convolution: of which this is the filter gradient.
    """
    if tiles.suits(convolution):
        return tiles.correlate(image, cotangent, convolution)
    taps = math.prod(convolution.filter_size)
    if len(convolution.image) == 1 and taps > _TAPS_OF_A_LINE:
        rows = math.ceil(taps / math.ceil(taps / _TAPS_OF_A_LINE))
        groups = image.shape[-1]
        return turns.take_groups(
            functools.partial(_in_turns, convolution=convolution, rows=rows),
            [image, cotangent],
            parts.divisor_about(groups, _PARTS_OF_A_LINE),
            (taps, groups),
            accumulator(image, cotangent),
        )
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
    first = convolution.filter_size[0]
    if taps > _MANY and first > 1:
        return _in_turns(image, cotangent, convolution, 1)
    if taps <= _FEW and convolution.outputs[0] * taps <= _PRODUCTS:
        return _sums_of_rows(image, cotangent, convolution, 1)
    image, convolution = _padded(image, convolution, 1)
    if convolution.outputs[0] * taps <= _PRODUCTS * first:
        return _sums_of_rows(image, cotangent, convolution, first)
    return _in_slabs(image, convolution, cotangent, max(1, min(_ROWS, _PRODUCTS * first // taps)))


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


def _in_slabs(
    image: jax.Array, convolution: Convolution, cotangent: jax.Array, rows: int
) -> jax.Array:
    """A few rows of outputs at a time, of an image without padding along the first axis."""

    def of_slab(first: jax.Array | int, count: int) -> jax.Array:
        size = (count - 1) * convolution.strides[0] + convolution.effective_filter_size[0]
        met = lax.dynamic_slice_in_dim(image, first * convolution.strides[0], size, 1)
        outputs = lax.dynamic_slice_in_dim(cotangent, first, count, 1)
        slab = dataclasses.replace(convolution, image=(size, *convolution.image[1:]))
        return _sums_of_rows(met, outputs, slab, convolution.filter_size[0])

    count, rest = divmod(convolution.outputs[0], rows)
    zeros = jnp.zeros((*convolution.filter_size, image.shape[-1]), accumulator(image, cotangent))
    total = turns.repeat(count, lambda i, total: total + of_slab(i * rows, rows), zeros)
    return total + of_slab(count * rows, rest) if rest else total


def _in_turns(
    image: jax.Array, cotangent: jax.Array, convolution: Convolution, rows: int
) -> jax.Array:
    """A few rows of the filter at a time, each from the rows of the image that they meet."""
    outputs, dilation = convolution.outputs[0], convolution.dilation[0]
    few = (
        len(convolution.image) == 1 or outputs * math.prod(convolution.filter_size[1:]) <= _PRODUCTS
    )
    # The last turn may go beyond the filter, and meet zeros there.
    count = math.ceil(convolution.filter_size[0] / rows)
    (before, after), *others = convolution.padding
    after += (count * rows - convolution.filter_size[0]) * dilation
    whole = dataclasses.replace(convolution, padding=((before, after), *others))
    image, padded = _padded(image, whole, 1 if few else len(convolution.image))
    size = (outputs - 1) * convolution.strides[0] + (rows - 1) * dilation + 1
    turn = dataclasses.replace(
        padded, image=(size, *padded.image[1:]), filter_size=(rows, *convolution.filter_size[1:])
    )

    def of_turn(index: jax.Array) -> jax.Array:
        met = lax.dynamic_slice_in_dim(image, index * (rows * dilation), size, 1)
        return correlate(met, cotangent, turn) if few else _accumulated(met, cotangent, turn)

    gradients = turns.stack(count, of_turn)
    return gradients.reshape(-1, *gradients.shape[2:])[: convolution.filter_size[0]]


def _accumulated(image: jax.Array, cotangent: jax.Array, convolution: Convolution) -> jax.Array:
    """One row of a padded image at a time, into one accumulator a tap of one row of the filter.

    Half to as long as slabs of as many rows as compile in the same time take.
    """
    dtype = accumulator(image, cotangent)
    taps = list(itertools.product(*map(range, convolution.filter_size)))

    def add(row: jax.Array, totals: list[jax.Array]) -> list[jax.Array]:
        pixels = lax.dynamic_slice_in_dim(image, row * convolution.strides[0], 1, 1)
        outputs = lax.dynamic_slice_in_dim(cotangent, row, 1, 1)
        pixels, outputs = lax.optimization_barrier((pixels, outputs))
        return [
            total
            + shifts.window(
                pixels,
                [i * d for i, d in zip(tap, convolution.dilation, strict=True)],
                (1, *convolution.outputs[1:]),
                (1, *convolution.strides[1:]),
            ).astype(dtype)
            * outputs.astype(dtype)
            for total, tap in zip(totals, taps, strict=True)
        ]

    zeros = jnp.zeros((cotangent.shape[0], 1, *cotangent.shape[2:]), dtype)
    totals = turns.repeat(convolution.outputs[0], add, [zeros] * len(taps))
    sums = [total.sum(tuple(range(total.ndim - 1))) for total in totals]
    return jnp.stack(sums).reshape(*convolution.filter_size, -1)
