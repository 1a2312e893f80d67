"""Shift and add: a sum over the filter's taps of shifted images, its lanes over the groups.

With few channels per group there is too little to sum for a matrix product. What remains is bound
by memory, and XLA fuses the whole sum into one loop over data whose minor axis, the groups, is
contiguous.
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax._convolution import Convolution, Role, accumulator
from grouped_conv_jax._implementations import phases

# A sum of more terms than this is rolled up, since the time to compile grows with them.
_UNROLLED_TERMS = 128
_FEW = 16


class _Shift(NamedTuple):
    """What one term of a sum takes along one axis.

    Attributes:
        weight: which of the weights; ``None`` for all, to which the image is broadcast.
        start: where its window into the image starts.
    """

    weight: int | None
    start: int


def unsupported(role: Role, convolution: Convolution, channels: int, filters: int) -> str | None:
    """Why this implementation cannot compute ``role``, or ``None``."""
    del role
    if channels * filters > _FEW:
        return (
            f"sums over taps serve at most {_FEW} channels times filters per group, "
            f"got {channels} * {filters}"
        )
    if not all(isinstance(size, int) for size in convolution.image):
        return f"the image's size must be known, got {convolution.image}"
    return None


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """``y`` ``(B, *outputs, G*F)``."""
    if _has_fewer_pixels(convolution, convolution.image):
        flipped = jnp.flip(filters, range(len(convolution.image)))
        padding = [
            (image + before - size, image + after - size)
            for image, size, (before, after) in zip(
                convolution.image, convolution.filter_size, convolution.padding, strict=True
            )
        ]
        by_filter = zip(*_weights(_pad_filters(flipped, padding), convolution.groups), strict=True)
        pixels = _planes(x, convolution.groups)
        return _join(
            [_sum_over_pixels(windows, pixels, convolution.outputs) for windows in by_filter]
        )

    images = _planes(_pad(x, convolution.padding), convolution.groups)
    shifts = [
        [_Shift(i, i * dilation) for i in range(size)]
        for size, dilation in zip(convolution.filter_size, convolution.dilation, strict=True)
    ]
    by_filter = zip(*_weights(filters, convolution.groups), strict=True)
    return _join(
        [
            _sum_of_shifts(
                images,
                [plane[None] for plane in weights],
                shifts,
                convolution.outputs,
                convolution.strides,
            )
            for weights in by_filter
        ]
    )


def input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """``x`` ``(B, *image, G*C)``.

    The phases are axes of the weights, each behind the axis that it interleaves with, so that the
    whole is one sum at stride one.
    """
    if _has_fewer_pixels(convolution, convolution.outputs):
        padding = [
            (outputs - 1 - before, before + image - size)
            for outputs, image, size, (before, _) in zip(
                convolution.outputs,
                convolution.image,
                convolution.filter_size,
                convolution.padding,
                strict=True,
            )
        ]
        by_channel = _weights(_pad_filters(filters, padding), convolution.groups)
        pixels = _planes(y, convolution.groups)
        return _join(
            [_sum_over_pixels(windows, pixels, convolution.image) for windows in by_channel]
        )

    axes = phases.axes(convolution)
    shifts: list[list[_Shift]] = []
    counts: list[int] = []
    for axis in axes:
        last = axis.quotients[-1]
        shifts += [
            [_Shift(q // axis.dilation, last - q) for q in axis.quotients],
            [_Shift(None, 0)],
        ]
        counts += [axis.count, 1]
    images = [
        jnp.expand_dims(plane, [2 * i + 2 for i in range(len(axes))])
        for plane in _planes(_pad(y, [axis.padding for axis in axes]), convolution.groups)
    ]
    planes = []
    for weights in _weights(filters, convolution.groups):
        phased = [phases.split_filters(plane, convolution)[None] for plane in weights]
        total = _sum_of_shifts(images, phased, shifts, counts, [1] * len(counts))
        planes.append(phases.interleave(total, axes))
    return _join(planes)


def filter_gradient(x: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """Filters ``(*filter, C, G*F)``."""
    images = _planes(_pad(x, convolution.padding), convolution.groups)
    cotangents = _planes(y, convolution.groups)
    pairs = [
        [_correlate(image, cotangent, convolution) for cotangent in cotangents] for image in images
    ]
    # (C, F, *filter, G) to (*filter, C, G * F)
    stacked = jnp.stack([jnp.stack(row) for row in pairs])
    whole = jnp.moveaxis(stacked, (0, 1), (-3, -1))
    return whole.reshape(*convolution.filter_size, len(images), -1)


def _has_fewer_pixels(convolution: Convolution, pixels: tuple[int, ...]) -> bool:
    """Whether an image has fewer pixels than the filter has taps, and the two may change places.

    A convolution is the same sum with its operands exchanged: over the pixels, of the filter as it
    lies around each.
    """
    dense = set(convolution.strides) == set(convolution.dilation) == {1}
    return dense and 0 < math.prod(pixels) < math.prod(convolution.filter_size)


def _pad_filters(filters: jax.Array, padding: Sequence[tuple[int, int]]) -> jax.Array:
    """Zeros around the taps; negative widths crop."""
    zero = jnp.zeros((), filters.dtype)
    return lax.pad(filters, zero, [*((a, b, 0) for a, b in padding), (0, 0, 0), (0, 0, 0)])


def _sum_over_pixels(
    windows: Sequence[jax.Array], pixels: Sequence[jax.Array], counts: Sequence[int]
) -> jax.Array:
    """Adds up windows of filters, each times a pixel.

    Args:
        windows: padded arrays ``(*filter, G)``; that of the last pixel is at the start.
        pixels: for each an array ``(B, *image, G)``.
        counts: the window's size along each axis.
    """
    shifts = [[_Shift(i, size - 1 - i) for i in range(size)] for size in pixels[0].shape[1:-1]]
    images = [window[None] for window in windows]
    return _sum_of_shifts(images, pixels, shifts, counts, [1] * len(counts))


def _pad(x: jax.Array, padding: Sequence[tuple[int, int]]) -> jax.Array:
    """Zeros around the spatial axes; negative widths crop."""
    zero = jnp.zeros((), x.dtype)
    return lax.pad(x, zero, [(0, 0, 0), *((a, b, 0) for a, b in padding), (0, 0, 0)])


def _planes(x: jax.Array, groups: int) -> list[jax.Array]:
    """``(..., G*C)`` to ``C`` arrays ``(..., G)``."""
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return [split[..., c] for c in range(split.shape[-1])]


def _join(planes: Sequence[jax.Array]) -> jax.Array:
    """The inverse of :func:`_planes`."""
    if len(planes) == 1:
        return planes[0]
    return jnp.stack(planes, -1).reshape(*planes[0].shape[:-1], -1)


def _weights(filters: jax.Array, groups: int) -> list[list[jax.Array]]:
    """``(*filter, C, G*F)`` to arrays ``(*filter, G)``, by channel and filter of the group."""
    *size, channels, outputs = filters.shape
    split = filters.reshape(*size, channels, groups, outputs // groups)
    return [[split[..., c, :, f] for f in range(split.shape[-1])] for c in range(channels)]


def _sum_of_shifts(
    images: Sequence[jax.Array],
    weights: Sequence[jax.Array],
    shifts: Sequence[Sequence[_Shift]],
    counts: Sequence[int],
    strides: Sequence[int],
) -> jax.Array:
    """Adds up windows of images, each times its weight.

    Args:
        images: arrays ``(B, *padded, G)``.
        weights: for each image an array ``(B, *weights, G)``. A batch of one, here or there, is
            that of all.
        shifts: for each axis the terms' shifts along it; the terms are their product.
        counts: the window's size along each axis.
        strides: the window's step along each axis.
    """
    if len(images) * math.prod(map(len, shifts)) <= _UNROLLED_TERMS or len(shifts[0]) == 1:
        return _unrolled(images, weights, shifts, counts, strides)

    extent = (counts[0] - 1) * strides[0] + 1
    indices = jnp.array([[shift.weight, shift.start] for shift in shifts[0]])
    inner = [[_Shift(0, 0)], *shifts[1:]]

    Rows: TypeAlias = tuple[list[jax.Array], list[jax.Array]]

    def take(i: jax.Array | int) -> Rows:
        weight, start = indices[i]
        return (
            [lax.dynamic_slice_in_dim(image, start, extent, 1) for image in images],
            [lax.dynamic_slice_in_dim(plane, weight, 1, 1) for plane in weights],
        )

    def add(i: jax.Array, state: tuple[jax.Array, Rows]) -> tuple[jax.Array, Rows]:
        total, (rows, row_weights) = state
        # What is sliced for the next turn XLA cannot fuse into this turn's sum, which would keep
        # LLVM from vectorizing it.
        return total + _unrolled(rows, row_weights, inner, counts, strides), take(i + 1)

    shape = jax.eval_shape(
        lambda: _unrolled(images, weights, [row[:1] for row in shifts], counts, strides)
    )
    start = jnp.zeros(shape.shape, shape.dtype), take(0)
    return lax.fori_loop(0, len(shifts[0]), add, start)[0]


def _unrolled(
    images: Sequence[jax.Array],
    weights: Sequence[jax.Array],
    shifts: Sequence[Sequence[_Shift]],
    counts: Sequence[int],
    strides: Sequence[int],
) -> jax.Array:
    dtype = accumulator(*images, *weights)

    def product(term: Sequence[_Shift], image: jax.Array, plane: jax.Array) -> jax.Array:
        window = _window(image, [shift.start for shift in term], counts, strides)
        chosen = (slice(None) if i is None else slice(i, i + 1) for i, _ in term)
        return window.astype(dtype) * plane[(slice(None), *chosen)].astype(dtype)

    # Shorter chains of additions make smaller errors.
    rows = [
        functools.reduce(
            operator.add,
            (
                product((first, *rest), image, plane)
                for rest in itertools.product(*shifts[1:])
                for image, plane in zip(images, weights, strict=True)
            ),
        )
        for first in shifts[0]
    ]
    return functools.reduce(operator.add, rows)


def _window(
    image: jax.Array, starts: Sequence[int], counts: Sequence[int], strides: Sequence[int]
) -> jax.Array:
    """``counts`` pixels of ``(B, *image, G)`` from ``starts``, ``strides`` apart."""
    ends = [a + (n - 1) * s + 1 for a, n, s in zip(starts, counts, strides, strict=True)]
    return lax.slice(
        image,
        (0, *starts, 0),
        (image.shape[0], *ends, image.shape[-1]),
        (1, *strides, 1),
    )


def _correlate(image: jax.Array, cotangent: jax.Array, convolution: Convolution) -> jax.Array:
    """``(*filter, G)``: for each tap the sum over batch and outputs of window times cotangent.

    One row of outputs at a time, into one accumulator a tap: XLA:CPU vectorizes a sum of arrays,
    but not a reduction of a product. Of large filters, one row of taps at a time.
    """
    if math.prod(convolution.filter_size) > _UNROLLED_TERMS and convolution.filter_size[0] > 1:
        return _correlate_by_rows(image, cotangent, convolution)
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
            + _window(
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


def _correlate_by_rows(
    image: jax.Array, cotangent: jax.Array, convolution: Convolution
) -> jax.Array:
    """The same, for each row of taps from the rows of the image that it meets."""
    size = ((convolution.outputs[0] - 1) * convolution.strides[0] + 1, *convolution.padded[1:])
    row = dataclasses.replace(
        convolution,
        image=size,
        filter_size=(1, *convolution.filter_size[1:]),
        padding=((0, 0),) * len(size),
    )

    def correlate(start: jax.Array) -> jax.Array:
        return _correlate(lax.dynamic_slice_in_dim(image, start, size[0], 1), cotangent, row)

    starts = jnp.arange(convolution.filter_size[0]) * convolution.dilation[0]
    return lax.map(correlate, starts)[:, 0]
