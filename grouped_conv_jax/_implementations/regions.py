"""Parts of a sum of shifted arrays, of the same terms throughout.

At the edges, where some of the shifted arrays have ended, a sum has fewer terms, and XLA writes
what is concatenated along outer axes from one loop: the zeros around an image are neither stored
nor added.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax import lax


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


def divide(
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
