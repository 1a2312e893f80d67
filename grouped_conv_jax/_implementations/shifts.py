"""Sums of shifted arrays, each times a weight, their lanes over the groups.

XLA fuses such a sum into one loop over data whose minor axis, the groups, is contiguous.
"""

import functools
import itertools
import math
import operator
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax._convolution import accumulator

# A sum of more terms than this is rolled up, since the time to compile grows with them.
UNROLLED_TERMS = 128


class Shift(NamedTuple):
    """What one term of a sum takes along one axis.

    Attributes:
        weight: which of the weights; ``None`` for all, to which the image is broadcast.
        start: where its window into the image starts.
    """

    weight: int | None
    start: int


def pad(x: jax.Array, padding: Sequence[tuple[int, int]]) -> jax.Array:
    """Zeros around the spatial axes; negative widths crop."""
    zero = jnp.zeros((), x.dtype)
    return lax.pad(x, zero, [(0, 0, 0), *((a, b, 0) for a, b in padding), (0, 0, 0)])


def planes(x: jax.Array, groups: int) -> list[jax.Array]:
    """``(..., G*C)`` to ``C`` arrays ``(..., G)``."""
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return [split[..., c] for c in range(split.shape[-1])]


def join(planes: Sequence[jax.Array]) -> jax.Array:
    """The inverse of :func:`planes`."""
    if len(planes) == 1:
        return planes[0]
    return jnp.stack(planes, -1).reshape(*planes[0].shape[:-1], -1)


def weights(filters: jax.Array, groups: int) -> list[list[jax.Array]]:
    """``(*filter, C, G*F)`` to arrays ``(*filter, G)``, by channel and filter of the group."""
    *size, channels, outputs = filters.shape
    split = filters.reshape(*size, channels, groups, outputs // groups)
    return [[split[..., c, :, f] for f in range(split.shape[-1])] for c in range(channels)]


def sum_of_shifts(
    images: Sequence[jax.Array],
    weights: Sequence[jax.Array],
    shifts: Sequence[Sequence[Shift]],
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
    if len(images) * math.prod(map(len, shifts)) <= UNROLLED_TERMS or len(shifts[0]) == 1:
        return _unrolled(images, weights, shifts, counts, strides)

    extent = (counts[0] - 1) * strides[0] + 1
    indices = jnp.array([[shift.weight, shift.start] for shift in shifts[0]])
    inner = [[Shift(0, 0)], *shifts[1:]]

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
    shifts: Sequence[Sequence[Shift]],
    counts: Sequence[int],
    strides: Sequence[int],
) -> jax.Array:
    dtype = accumulator(*images, *weights)

    def product(term: Sequence[Shift], image: jax.Array, plane: jax.Array) -> jax.Array:
        shifted = window(image, [shift.start for shift in term], counts, strides)
        chosen = (slice(None) if i is None else slice(i, i + 1) for i, _ in term)
        return shifted.astype(dtype) * plane[(slice(None), *chosen)].astype(dtype)

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


def window(
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
