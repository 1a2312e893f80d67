"""Sums of shifted arrays, each times a weight, their lanes over the groups.

XLA fuses such a sum into one loop over data whose minor axis, the groups, is contiguous.
"""

import functools
import itertools
import math
import operator
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax._convolution import Convolution, accumulator
from grouped_conv_jax._implementations import regions, turns

# A sum with more weights than this is added up in turns: 0.4 to 1.2 times as long, and less to
# compile.
UNROLLED_WEIGHTS = 64
# Of so many terms each. Of float32 and filters from 11x11 to 31x31, with 64 and 128 channels 30 to
# 44 are best; with 256, 512 and 1024 channels 28, 14 and 7 are, and with twice as many it takes 1.7
# to 2.3 times as long.
_TERMS_A_TURN = 32
_TERMS_A_SET = 7
_CACHE_WAY = 4096
# Of no more terms than this turns are compiled, at 3 ms a term.
_COMPILED_TERMS = 384
# Terms of one chain of additions; 4 to 12 take about as long, 31 take 1.3 to 1.6 times as long.
_CHAIN = 8
# As many as this may the regions of all sums have together, at 3 ms each to compile; with more,
# images are padded.
_REGIONS_TERMS = 500


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
    shifts: Sequence[Sequence[regions.Shift]],
    counts: Sequence[int],
    strides: Sequence[int],
    sums: int,
    most_unrolled: int = UNROLLED_WEIGHTS,
) -> jax.Array:
    """Adds up windows of images, each times its weight; beyond their edges the images are zero.

    Args:
        images: arrays ``(B, *image, G)``.
        weights: for each image an array ``(B, *weights, G)``. A batch of one, here or there, is
            that of all.
        shifts: for each axis the terms' shifts along it; the terms are their product.
        counts: the window's size along each axis.
        strides: the window's step along each axis.
        sums: how many such sums the program has.
        most_unrolled: weights; with more, terms are added up in turns, and images are padded.
    """
    unrolled = len(images) * math.prod(weights[0].shape[1:-1])
    if unrolled > most_unrolled and len(shifts[0]) > 1:
        return _sum_in_turns(images, weights, shifts, counts, strides)
    axes = [
        regions.divide(size, terms, count, stride)
        for size, terms, count, stride in zip(
            images[0].shape[1:-1], shifts, counts, strides, strict=True
        )
    ]
    padding = [(0, 0)] * len(axes)
    for i in reversed(range(len(axes))):
        together = (sum(len(region.shifts) for region in axis) for axis in axes)
        if sums * len(images) * math.prod(together) <= _REGIONS_TERMS:
            break
        if len(axes[i]) == 1:
            continue
        size, stride = images[0].shape[1 + i], strides[i]
        # So many pixels that every window meets the zeros: of windows within the image XLA would
        # make windows of the image as it was, and read both.
        count = max(counts[i], (size - 1) // stride + 2)
        padding[i], region = whole(size, shifts[i], count, stride)
        axes[i] = [region]
    if any(map(any, padding)):
        images = [pad(image, padding) for image in images]

    def compute(chosen: list[regions.Region]) -> jax.Array:
        total = _unrolled(images, weights, chosen, strides)
        ends = (n if region.count > n else None for region, n in zip(chosen, counts, strict=True))
        return total[(slice(None), *map(slice, ends))]

    return regions.concatenate(axes, compute, 1)


def whole(
    size: int, shifts: Sequence[regions.Shift], count: int, stride: int
) -> tuple[tuple[int, int], regions.Region]:
    """How to pad an image for every term to be within it everywhere, and the one region then."""
    starts = [shift.start for shift in shifts]
    before = max(0, -min(starts))
    after = max(0, max(starts) + (count - 1) * stride + 1 - size)
    moved = tuple(regions.Shift(shift.weight, shift.start + before) for shift in shifts)
    return (before, after), regions.Region(0, count, moved)


def pad(image: jax.Array, padding: Sequence[tuple[int, int]]) -> jax.Array:
    """Zeros around the spatial axes; negative widths crop."""
    zero = jnp.zeros((), image.dtype)
    return lax.pad(image, zero, [(0, 0, 0), *((a, b, 0) for a, b in padding), (0, 0, 0)])


def _sum_in_turns(
    images: Sequence[jax.Array],
    weights: Sequence[jax.Array],
    shifts: Sequence[Sequence[regions.Shift]],
    counts: Sequence[int],
    strides: Sequence[int],
) -> jax.Array:
    """As :func:`sum_of_shifts`, of padded images."""
    sizes = images[0].shape[1:-1]
    padding, axes = zip(*map(whole, sizes, shifts, counts, strides), strict=True)
    if any(map(any, padding)):
        images = [pad(image, padding) for image in images]
    first, *others = axes

    def compute(
        images: Sequence[jax.Array], weights: Sequence[jax.Array], region: regions.Region
    ) -> jax.Array:
        return _unrolled(images, weights, [region, *others], strides)

    row_terms = len(images) * math.prod(len(region.shifts) for region in others)
    # What one term reads of the weights for the neighbours that a pixel is broadcast to.
    beside = weights[0].shape[-2] if others and others[-1].shifts[0].weight is None else 1
    rows = max(1, _terms_a_turn(images[0]) // (row_terms * beside))
    return turns.add_rows(
        compute, images, weights, first, strides[0], row_terms, rows, _COMPILED_TERMS, axis=1
    )


def _terms_a_turn(image: jax.Array) -> int:
    """As many terms of a sum as the first-level cache keeps apart.

    What lies a multiple of 4 KB apart falls into the same set of the cache. The more powers of two
    the size of a pixel has, the fewer sets the neighbours of a pixel share.
    """
    pixel = image.shape[-1] * image.dtype.itemsize
    return min(_TERMS_A_TURN, _TERMS_A_SET * (_CACHE_WAY // math.gcd(pixel, _CACHE_WAY)))


def _unrolled(
    images: Sequence[jax.Array],
    weights: Sequence[jax.Array],
    chosen: Sequence[regions.Region],
    strides: Sequence[int],
) -> jax.Array:
    """The sum over one region of each axis."""
    dtype = accumulator(*images, *weights)
    counts = [region.count for region in chosen]

    def product(term: Sequence[regions.Shift], image: jax.Array, plane: jax.Array) -> jax.Array:
        starts = [
            shift.start + region.start * stride
            for shift, region, stride in zip(term, chosen, strides, strict=True)
        ]
        shifted = window(image, starts, counts, strides)
        some = (slice(None) if i is None else slice(i, i + 1) for i, _ in term)
        return shifted.astype(dtype) * plane[(slice(None), *some)].astype(dtype)

    if not all(region.count and region.shifts for region in chosen):
        image, plane = images[0].shape, weights[0].shape
        # Of weights that are taken whole the sum has the axis.
        sizes = [
            own if region.shifts and region.shifts[0].weight is None else region.count
            for region, own in zip(chosen, plane[1:-1], strict=True)
        ]
        batch = image[0] if plane[0] == 1 else plane[0]
        return jnp.zeros((batch, *sizes, image[-1]), dtype)

    first, *others = (region.shifts for region in chosen)
    return add_up(
        [
            product((shift, *rest), image, plane)
            for rest in itertools.product(*others)
            for image, plane in zip(images, weights, strict=True)
        ]
        for shift in first
    )


def add_up(rows: Iterable[Sequence[jax.Array]]) -> jax.Array:
    """The sum of the terms of some rows, in chains.

    A processor computes several chains at a time, and shorter ones make smaller errors.
    """
    chains = [row[i : i + _CHAIN] for row in rows for i in range(0, len(row), _CHAIN)]
    return functools.reduce(operator.add, (functools.reduce(operator.add, c) for c in chains))


def offsets(convolution: Convolution) -> list[range]:
    """For each axis where the windows of its taps start in padded images."""
    return [
        range(0, size * step, step)
        for size, step in zip(convolution.filter_size, convolution.dilation, strict=True)
    ]


def window(
    image: jax.Array,
    starts: Sequence[int],
    counts: Sequence[int],
    strides: Sequence[int],
    first: int = 0,
    step: int = 1,
) -> jax.Array:
    """``counts`` pixels of ``(B, *image, G)`` from ``starts``, ``strides`` apart.

    Of every ``step``-th image from the ``first`` on in one slice: a slice of a slice is not fused
    with what is computed of it.
    """
    ends = [a + (n - 1) * s + 1 for a, n, s in zip(starts, counts, strides, strict=True)]
    return lax.slice(
        image,
        (first, *starts, 0),
        (image.shape[0], *ends, image.shape[-1]),
        (step, *strides, 1),
    )
