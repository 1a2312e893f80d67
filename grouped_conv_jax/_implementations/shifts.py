"""Sums of shifted arrays, each times a weight, their lanes over the groups.

XLA fuses such a sum into one loop over data whose minor axis, the groups, is contiguous. At the
edges, where some of the shifted arrays have ended, the sum has fewer terms, and XLA writes what is
concatenated along outer axes from one loop too: the zeros around an image are neither stored nor
added.
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax._convolution import accumulator

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


class Shift(NamedTuple):
    """What one term of a sum takes along one axis.

    Attributes:
        weight: which of the weights; ``None`` for all, to which the image is broadcast.
        start: where its window into the image starts, which may be beyond an edge.
    """

    weight: int | None
    start: int


@dataclasses.dataclass(frozen=True)
class Region:
    """Part of an axis of a sum, of the same terms throughout.

    Attributes:
        start: of its pixels in the sum.
        count: of them.
        shifts: of the terms that are within the image there.
    """

    start: int
    count: int
    shifts: tuple[Shift, ...]


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
        regions(size, terms, count, stride)
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
        padding[i], region = _whole(size, shifts[i], count, stride)
        axes[i] = [region]
    if any(map(any, padding)):
        images = [pad(image, padding) for image in images]

    def compute(chosen: list[Region]) -> jax.Array:
        total = _unrolled(images, weights, chosen, strides)
        ends = (n if region.count > n else None for region, n in zip(chosen, counts, strict=True))
        return total[(slice(None), *map(slice, ends))]

    return concatenate(axes, compute, 1)


def regions(
    size: int,
    shifts: Sequence[Shift],
    count: int,
    stride: int,
    ends: Sequence[int] | None = None,
) -> list[Region]:
    """Divides an axis of a sum.

    Args:
        size: of the image along it.
        shifts: of the terms.
        count: of the sum's pixels along it.
        stride: from one window's pixel to the next.
        ends: the pixel of the sum before which each term ends at the latest; by default ``count``.
    """
    ranges = {}
    for shift, end in zip(shifts, ends or [count] * len(shifts), strict=True):
        first = max(0, -(shift.start // stride))
        stop = min(end, (size - 1 - shift.start) // stride + 1)
        if first < stop:
            ranges[shift] = (first, stop)
    edges = sorted({0, count, *itertools.chain.from_iterable(ranges.values())})
    result = []
    for start, stop in itertools.pairwise(edges):
        there = (shift for shift, (first, last) in ranges.items() if first <= start < last)
        result.append(Region(start, stop - start, tuple(there)))
    return result or [Region(0, 0, ())]


def _whole(
    size: int, shifts: Sequence[Shift], count: int, stride: int
) -> tuple[tuple[int, int], Region]:
    """How to pad an image for every term to be within it everywhere, and the one region then."""
    starts = [shift.start for shift in shifts]
    before = max(0, -min(starts))
    after = max(0, max(starts) + (count - 1) * stride + 1 - size)
    moved = tuple(Shift(shift.weight, shift.start + before) for shift in shifts)
    return (before, after), Region(0, count, moved)


def pad(image: jax.Array, padding: Sequence[tuple[int, int]]) -> jax.Array:
    """Zeros around the spatial axes; negative widths crop."""
    zero = jnp.zeros((), image.dtype)
    return lax.pad(image, zero, [(0, 0, 0), *((a, b, 0) for a, b in padding), (0, 0, 0)])


def concatenate(
    axes: Sequence[Sequence[Region]],
    compute: Callable[[list[Region]], jax.Array],
    first: int,
) -> jax.Array:
    """Joins what ``compute`` makes of one region of each axis, ``first`` being the first axis."""

    def join_from(chosen: list[Region]) -> jax.Array:
        axis = len(chosen)
        if axis == len(axes):
            return compute(chosen)
        return lax.concatenate(
            [join_from([*chosen, region]) for region in axes[axis]], first + axis
        )

    return join_from([])


def _sum_in_turns(
    images: Sequence[jax.Array],
    weights: Sequence[jax.Array],
    shifts: Sequence[Sequence[Shift]],
    counts: Sequence[int],
    strides: Sequence[int],
) -> jax.Array:
    """As :func:`sum_of_shifts`, of padded images."""
    sizes = images[0].shape[1:-1]
    padding, axes = zip(*map(_whole, sizes, shifts, counts, strides), strict=True)
    if any(map(any, padding)):
        images = [pad(image, padding) for image in images]
    first, *others = axes

    def compute(
        images: Sequence[jax.Array], weights: Sequence[jax.Array], region: Region
    ) -> jax.Array:
        return _unrolled(images, weights, [region, *others], strides)

    row_terms = len(images) * math.prod(len(region.shifts) for region in others)
    # What one term reads of the weights for the neighbours that a pixel is broadcast to.
    beside = weights[0].shape[-2] if others and others[-1].shifts[0].weight is None else 1
    rows = max(1, _terms_a_turn(images[0]) // (row_terms * beside))
    return in_turns(
        compute, images, weights, first, strides[0], row_terms, rows, _COMPILED_TERMS, axis=1
    )


def in_turns(
    compute: Callable[[Sequence[jax.Array], Sequence[jax.Array], Region], jax.Array],
    images: Sequence[jax.Array],
    weights: Sequence[jax.Array],
    first: Region,
    stride: int,
    row_terms: int,
    rows: int,
    most_compiled: int,
    axis: int,
) -> jax.Array:
    """Adds up what ``compute`` makes of a few rows of terms at a time.

    Args:
        compute: the sum of the terms that a region of the first spatial axis has.
        images: whose rows are along ``axis``.
        weights: likewise.
        first: all rows of terms.
        stride: the window's step from row to row.
        row_terms: terms of a row.
        rows: of a turn.
        most_compiled: terms; of no more turns are compiled, and a loop does the others.
        axis: the first spatial axis of images and weights.
    """

    def add(
        total: jax.Array,
        images: Sequence[jax.Array],
        weights: Sequence[jax.Array],
        shifts: Sequence[Shift],
    ) -> jax.Array:
        # A branch for each turn keeps XLA from fusing the turns; slices that start where a loop
        # says, fused into a sum, would keep LLVM from vectorizing it.
        def turn(shifts: Sequence[Shift], total: jax.Array) -> jax.Array:
            return total + compute(images, weights, Region(0, first.count, tuple(shifts)))

        turns = [functools.partial(turn, shifts[i : i + rows]) for i in range(0, len(shifts), rows)]
        return lax.fori_loop(0, len(turns), lambda i, total: lax.switch(i, turns, total), total)

    total = compute(images, weights, Region(0, first.count, ()))
    size = _rows_compiled(first.shifts, max(1, most_compiled // row_terms))
    rest = len(first.shifts) % size
    if rest:
        total = add(total, images, weights, first.shifts[:rest])
    loops = [first.shifts[i : i + size] for i in range(rest, len(first.shifts), size)]
    if len(loops) == 1:
        return add(total, images, weights, loops[0])

    origins = [(min(s.weight or 0 for s in loop), min(s.start for s in loop)) for loop in loops]
    weight, start = origins[0]
    alike = [Shift((shift.weight or 0) - weight, shift.start - start) for shift in loops[0]]
    extent = max(shift.start for shift in alike) + (first.count - 1) * stride + 1
    weight_extent = max(shift.weight or 0 for shift in alike) + 1
    indices = jnp.array(origins)

    def add_loop(i: jax.Array, total: jax.Array) -> jax.Array:
        weight, start = indices[i]
        return add(
            total,
            [lax.dynamic_slice_in_dim(image, start, extent, axis) for image in images],
            [lax.dynamic_slice_in_dim(plane, weight, weight_extent, axis) for plane in weights],
            alike,
        )

    return lax.fori_loop(0, len(loops), add_loop, total)


def _rows_compiled(shifts: Sequence[Shift], most: int) -> int:
    """The most rows of terms, up to a limit, that a loop over the others can be made of."""

    def gaps(first: int, size: int) -> list[tuple[int, int]]:
        loop = shifts[first : first + size]
        return [
            ((b.weight or 0) - (a.weight or 0), b.start - a.start)
            for a, b in itertools.pairwise(loop)
        ]

    count = len(shifts)
    for size in range(count // math.ceil(count / most), 1, -1):
        firsts = range(count % size, count, size)
        if all(gaps(first, size) == gaps(firsts[0], size) for first in firsts):
            return size
    return 1


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
    chosen: Sequence[Region],
    strides: Sequence[int],
) -> jax.Array:
    """The sum over one region of each axis."""
    dtype = accumulator(*images, *weights)
    counts = [region.count for region in chosen]

    def product(term: Sequence[Shift], image: jax.Array, plane: jax.Array) -> jax.Array:
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
