"""Shift-and-add: a sum over filter taps of shifted images, for few channels and filters per group.

Such groups are too narrow for matrix products. The computation is memory-bound, and XLA fuses the
sum over the taps into one loop, in which the groups are the minor axis.
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from grouped_conv_jax.operation._description import Convolution, Role, accumulator
from grouped_conv_jax.operation.implementations import polyphase

_MAX_WEIGHTS_PER_TAP = 16
# Longer sums loop over the leading axes of the filter, since compile time grows with their length.
_UNROLLED_TERMS = 128


def unsupported(role: Role, convolution: Convolution, channels: int, filters: int) -> str | None:
    """Why this implementation cannot compute ``role``, or ``None``."""
    del role
    if channels * filters > _MAX_WEIGHTS_PER_TAP:
        return (
            f"sums over taps support at most {_MAX_WEIGHTS_PER_TAP} channels times filters per "
            f"group, got {channels} * {filters}"
        )
    if not all(isinstance(size, int) for size in convolution.image):
        return f"the image's size must be known, got {convolution.image}"
    return None


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """``y`` ``(B, *outputs, G*F)``."""
    images = _planes(_pad(x, convolution), convolution.groups)
    weights = [
        _planes(filters[None, ..., channel, :], convolution.groups)
        for channel in range(filters.shape[-2])
    ]
    return _join([_sum_over_taps(images, own, convolution) for own in zip(*weights, strict=True)])


def input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """``x`` ``(B, *image, G*C)``."""
    return polyphase.input_gradient(filters, y, convolution, forward)


def filter_gradient(x: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """Filters ``(*filter, C, G*F)``: ``x`` convolved with ``y``, stride and dilation exchanged."""
    sizes = zip(
        convolution.image,
        convolution.padding,
        convolution.effective_filter_size,
        convolution.outputs,
        convolution.strides,
        strict=True,
    )
    exchanged = dataclasses.replace(
        convolution,
        filter_size=convolution.outputs,
        strides=convolution.dilation,
        dilation=convolution.strides,
        # The image ends with the last pixel that a filter covers.
        padding=tuple(
            (before, extent + (n - 1) * stride - size - before)
            for size, (before, _), extent, n, stride in sizes
        ),
    )
    cotangents = _planes(y, convolution.groups)
    by_channel = [
        _join([_sum_over_taps([image], [own], exchanged).sum(0) for own in cotangents])
        for image in _planes(_pad(x, exchanged), convolution.groups)
    ]
    return jnp.stack(by_channel, -2)


def _sum_over_taps(
    images: Sequence[jax.Array], weights: Sequence[jax.Array], convolution: Convolution
) -> jax.Array:
    """Sums windows times weights over all taps and images; returns ``(B, *outputs, G)``.

    Args:
        images: arrays ``(B, *padded, G)``.
        weights: for each image an array ``(B, *filter, G)``, or ``(1, *filter, G)`` for all.
        convolution: defines the windows.
    """
    size = convolution.filter_size
    short = (n for n in range(len(size)) if math.prod(size[n:]) * len(images) <= _UNROLLED_TERMS)
    looped = next(short, len(size))
    unrolled = list(np.ndindex(*[1] * looped, *size[looped:]))
    if not looped:
        return _sum_of_products(images, weights, unrolled, convolution)
    extents = _extents(convolution)

    def add_taps(index: jax.Array, total: jax.Array) -> jax.Array:
        leading = jnp.unravel_index(index, size[:looped])
        starts = [i * step for i, step in zip(leading, convolution.dilation, strict=False)]
        windows = [_part(image, starts, extents) for image in images]
        own = [_part(plane, leading, [1] * looped) for plane in weights]
        return total + _sum_of_products(windows, own, unrolled, convolution)

    shape = images[0].shape[0], *convolution.outputs, images[0].shape[-1]
    zeros = jnp.zeros(shape, accumulator(*images, *weights))
    return lax.fori_loop(0, math.prod(size[:looped]), add_taps, zeros)


def _sum_of_products(
    images: Sequence[jax.Array],
    weights: Sequence[jax.Array],
    taps: Sequence[tuple[int, ...]],
    convolution: Convolution,
) -> jax.Array:
    """As :func:`_sum_over_taps`, for some of the taps."""
    dtype, extents = accumulator(*images, *weights), _extents(convolution)

    def product(image: jax.Array, plane: jax.Array, tap: tuple[int, ...]) -> jax.Array:
        starts = [i * step for i, step in zip(tap, convolution.dilation, strict=True)]
        ends = [start + extent for start, extent in zip(starts, extents, strict=True)]
        window = lax.slice(
            image,
            [0, *starts, 0],
            [image.shape[0], *ends, image.shape[-1]],
            [1, *convolution.strides, 1],
        )
        weight = plane[(slice(None), *(slice(i, i + 1) for i in tap))]
        return window.astype(dtype) * weight.astype(dtype)

    pairs = list(zip(images, weights, strict=True))
    rows = itertools.groupby(taps, lambda tap: tap[:-1])
    # Summing row by row rounds less than one long chain of additions.
    return _total(_total(product(*pair, tap) for tap in row for pair in pairs) for _, row in rows)


def _extents(convolution: Convolution) -> list[int]:
    """The number of pixels that a window spans along each axis."""
    sizes = zip(convolution.outputs, convolution.strides, strict=True)
    return [(n - 1) * stride + 1 for n, stride in sizes]


def _part(array: jax.Array, starts: Sequence[jax.Array], sizes: Sequence[int]) -> jax.Array:
    """Slices ``(B, *spatial, G)`` along its leading spatial axes, one per start."""
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=False), 1):
        array = lax.dynamic_slice_in_dim(array, start, size, axis)
    return array


def _total(terms: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(operator.add, terms)


def _pad(x: jax.Array, convolution: Convolution) -> jax.Array:
    """Pads the spatial axes with zeros; negative numbers crop."""
    edges = [(before, after, 0) for before, after in convolution.padding]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


def _planes(x: jax.Array, groups: int) -> list[jax.Array]:
    """Splits ``(..., G*C)`` into ``C`` arrays ``(..., G)``."""
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return [split[..., c] for c in range(split.shape[-1])]


def _join(planes: Sequence[jax.Array]) -> jax.Array:
    """The inverse of :func:`_planes`."""
    if len(planes) == 1:
        return planes[0]
    return jnp.stack(planes, -1).reshape(*planes[0].shape[:-1], -1)
