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
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax._convolution import accumulator

# A sum of more terms than this is rolled up, since the time to compile grows with them.
_UNROLLED_TERMS = 128
# So many of them are then added up at once. Of float32 and filters from 11x11 to 31x31, with 64 and
# 128 channels 30 to 44 are best; with 256, 512 and 1024 channels 28, 14 and 7 are, and with twice
# as many it takes 1.7 to 2.3 times as long.
_ROLLED_TERMS = 32
_TERMS_A_SET = 7
_CACHE_WAY = 4096
# As many as this may the regions of all sums have together; with more, images are padded.
_REGIONS_TERMS = 800


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
    most_unrolled: int = _UNROLLED_TERMS,
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
        most_unrolled: terms; of more the sum is rolled up, and images are padded.
    """
    unrolled = len(images) * math.prod(map(len, shifts))
    roll = unrolled > most_unrolled and len(shifts[0]) > 1
    axes = [
        regions(size, terms, count, stride)
        for size, terms, count, stride in zip(
            images[0].shape[1:-1], shifts, counts, strides, strict=True
        )
    ]
    padding = [(0, 0)] * len(axes)
    for i in reversed(range(len(axes))):
        together = (sum(len(region.shifts) for region in axis) for axis in axes)
        if not roll and sums * len(images) * math.prod(together) <= _REGIONS_TERMS:
            break
        padding[i], whole = _whole(images[0].shape[1 + i], shifts[i], counts[i], strides[i])
        axes[i] = [whole]
    if any(map(any, padding)):
        images = [pad(image, padding) for image in images]
    if roll:
        return _rolled(images, weights, [whole for [whole] in axes], strides)
    return concatenate(axes, lambda chosen: _unrolled(images, weights, chosen, strides), 1)


def regions(size: int, shifts: Sequence[Shift], count: int, stride: int) -> list[Region]:
    """Divides an axis of a sum.

    Args:
        size: of the image along it.
        shifts: of the terms.
        count: of the sum's pixels along it.
        stride: from one window's pixel to the next.
    """
    ranges = {}
    for shift in shifts:
        first = max(0, -(shift.start // stride))
        stop = min(count, (size - 1 - shift.start) // stride + 1)
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


def _rolled(
    images: Sequence[jax.Array],
    weights: Sequence[jax.Array],
    chosen: Sequence[Region],
    strides: Sequence[int],
) -> jax.Array:
    """A few rows of terms at a time."""
    first, *others = chosen
    places = [(shift.weight or 0, shift.start) for shift in first.shifts]
    steps = {(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(places)}
    row_terms = len(images) * math.prod(len(region.shifts) for region in others)
    # Of rows that are not evenly spaced no two turns would be alike.
    rows = max(1, _terms_at_once(images[0]) // row_terms) if len(steps) == 1 else 1
    rest = len(first.shifts) % rows
    turns = [places[i : i + rows] for i in range(rest, len(places), rows)]
    origins = [tuple(map(min, zip(*turn, strict=True))) for turn in turns]
    alike = tuple(
        Shift(weight - origins[0][0], start - origins[0][1]) for weight, start in turns[0]
    )
    turn = [Region(0, first.count, alike), *others]
    extent = max(shift.start for shift in alike) + (first.count - 1) * strides[0] + 1
    indices = jnp.array(origins)

    Rows: TypeAlias = tuple[list[jax.Array], list[jax.Array]]

    def take(i: jax.Array | int) -> Rows:
        weight, start = indices[i]
        return (
            [lax.dynamic_slice_in_dim(image, start, extent, 1) for image in images],
            [lax.dynamic_slice_in_dim(plane, weight, rows, 1) for plane in weights],
        )

    def add(i: jax.Array, state: tuple[jax.Array, Rows]) -> tuple[jax.Array, Rows]:
        total, (image_rows, weight_rows) = state
        # What is sliced for the next turn XLA cannot fuse into this turn's sum, which would keep
        # LLVM from vectorizing it.
        return total + _unrolled(image_rows, weight_rows, turn, strides), take(i + 1)

    left_over = [Region(0, first.count, first.shifts[:rest]), *others]
    begin = _unrolled(images, weights, left_over, strides)
    return lax.fori_loop(0, len(turns), add, (begin, take(0)))[0]


def _terms_at_once(image: jax.Array) -> int:
    """As many terms of a sum as the first-level cache keeps apart.

    What lies a multiple of 4 KB apart falls into the same set of the cache. The more powers of two
    the size of a pixel has, the fewer sets the neighbours of a pixel share.
    """
    pixel = image.shape[-1] * image.dtype.itemsize
    return min(_ROLLED_TERMS, _TERMS_A_SET * (_CACHE_WAY // math.gcd(pixel, _CACHE_WAY)))


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
    # Shorter chains of additions make smaller errors.
    rows = [
        functools.reduce(
            operator.add,
            (
                product((shift, *rest), image, plane)
                for rest in itertools.product(*others)
                for image, plane in zip(images, weights, strict=True)
            ),
        )
        for shift in first
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
