"""Sums over windows for one channel and one filter per group, in strips of eight groups.

A strip of the sums lies in memory as one image after the other, and in that order XLA computes it:
the rows that it reads fit the first-level cache, and the weights of a turn the registers, however
many groups there are. A transposition joins the strips.
"""

import itertools
import math
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax._convolution import accumulator
from grouped_conv_jax._implementations import parts, shifts, turns

# Vectors of eight are what XLA:CPU makes of float32, whatever the processor has.
GROUPS = 8
# With fewer, padding and transposition take longer than the sum gains.
_FEWEST_TERMS = 36
# So many weights, and half of them, stay in registers. With 49 terms at once it takes up to 1.3
# times as long, with 121 up to 1.7, and sums of fewer LLVM does not always vectorize.
_FEWEST_TERMS_A_TURN, _TERMS_A_TURN = 16, 31

# Of more pixels, at 3 ms each to compile, one row is compiled, and looped over.
_UNROLLED_PIXELS = 256


def are_enough(batch: int, groups: int, outputs: Sequence[int], terms: int, products: int) -> bool:
    """Whether the sums of so many terms make strips, of at least so many products in all."""
    # An exported program's batch may not be known.
    if groups % GROUPS or len(outputs) > 2 or not isinstance(batch, int):
        return False
    enough = batch * math.prod(outputs) * groups * terms >= products
    return enough and terms >= _FEWEST_TERMS


def split(array: jax.Array) -> jax.Array:
    """``(..., G)`` to ``(strips, ..., groups of a strip)``."""
    return jnp.moveaxis(array.reshape(*array.shape[:-1], -1, GROUPS), -2, 0)


def join(strips: jax.Array) -> jax.Array:
    """The inverse of :func:`split`."""
    joined = jnp.moveaxis(strips, 0, -2)
    return joined.reshape(*joined.shape[:-2], -1)


def sum_of_windows(
    images: jax.Array,
    vectors: Sequence[jax.Array],
    starts: Iterable[Sequence[int]],
    counts: Sequence[int],
    strides: Sequence[int],
    total: jax.Array | None = None,
) -> jax.Array:
    """``(strips, B, *counts, groups of a strip)``: over the terms, of windows times vectors.

    Args:
        images: ``(strips, B, *padded, groups of a strip)``. A batch of one, here or there, is that
            of all.
        vectors: of each term ``(strips, B, groups of a strip)``.
        starts: where each term's window starts, along each spatial axis.
        counts: the window's size along each of them.
        strides: the window's step along each of them.
        total: what to add them to.
    """
    spatial = range(2, 2 + len(counts))
    # The batch is an axis of one tap.
    counts, strides = [images.shape[1], *counts], [1, *strides]
    terms = [
        shifts.window(images, [0, *start], counts, strides).astype(vector.dtype)
        * jnp.expand_dims(vector, spatial)
        for start, vector in zip(starts, vectors, strict=True)
    ]
    sums = [
        shifts.add_up([[terms[i] for i in turn]])
        for turn in parts.ranges(len(terms), _TERMS_A_TURN)
    ]
    if total is not None:
        sums[0] = total + sums[0]
    first, *others = sums
    result = turns.apart(first)
    for more in others:
        result = turns.apart(result + more)
    return result


def are_pixels(sizes: Sequence[int]) -> bool:
    """Whether :func:`sum_over_pixels` serves images of these sizes."""
    if math.prod(sizes) <= _UNROLLED_PIXELS:
        return True
    return len(sizes) == 2 and _FEWEST_TERMS_A_TURN <= sizes[1] <= _UNROLLED_PIXELS


def looped_copy(sizes: Sequence[int], counts: Sequence[int], padded: Sequence[int]) -> int:
    """How much of each padded image :func:`sum_over_pixels` may copy, in pixels."""
    if math.prod(sizes) <= _UNROLLED_PIXELS:
        return 0
    return counts[0] * math.prod(padded[1:])


def copy(array: jax.Array) -> jax.Array:
    """Strips of ``(..., G)`` as they are in memory.

    Where the array lies, what one strip reads falls into a few sets of the first-level cache.
    """
    images = split(array)
    # With axes joined that were not neighbours it is one copy, with them apart two.
    return turns.apart(images.reshape(-1, images.shape[-1])).reshape(images.shape)


def sum_over_pixels(
    images: jax.Array,
    pixels: jax.Array,
    starts: Sequence[Sequence[int]],
    counts: Sequence[int],
    strides: Sequence[int],
    total: jax.Array | None = None,
) -> jax.Array:
    """As :func:`sum_of_windows`, with a term for each pixel of other images.

    Args:
        images: likewise.
        pixels: ``(B, *sizes, G)``, which :func:`are_pixels`.
        starts: for each axis where the windows of the pixels along it start, equally far apart.
        counts: likewise.
        strides: likewise.
        total: likewise.
    """
    dtype, sizes = accumulator(images, pixels), pixels.shape[1:-1]

    def vectors(pixels: jax.Array) -> list[jax.Array]:
        places = itertools.product(*map(range, pixels.shape[1:-1]))
        return [split(pixels[:, *place]).astype(dtype) for place in places]

    if math.prod(sizes) <= _UNROLLED_PIXELS:
        places = itertools.product(*starts)
        return sum_of_windows(images, vectors(pixels), places, counts, strides, total)
    (first, second, *_), beside = starts
    extent = (counts[0] - 1) * strides[0] + 1

    def add_row(i: jax.Array, total: jax.Array) -> jax.Array:
        windows = lax.dynamic_slice_in_dim(images, first + i * (second - first), extent, 2)
        row = lax.dynamic_index_in_dim(pixels, i, 1, keepdims=False)
        places = [[0, start] for start in beside]
        return sum_of_windows(windows, vectors(row), places, counts, strides, total)

    if total is None:
        total = jnp.zeros((images.shape[0], pixels.shape[0], *counts, GROUPS), dtype)
    return turns.repeat(sizes[0], add_row, total)
