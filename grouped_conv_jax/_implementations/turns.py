"""Computations that XLA keeps apart, one after the other.

XLA fuses a sum with what is done to it, and sums that do not depend on one another it computes in
any order, keeping the arrays of all. It fuses neither branches of a switch in a loop, which take
turns, nor what goes through a loop of no turns.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from grouped_conv_jax._implementations.regions import Region, Shift

PARALLEL_BYTES = 1 << 20
"""XLA:CPU computes sums of fewer bytes on one core, which takes 1.5 to 1.8 times as long."""


def repeat(count: int | jax.Array, turn: Callable[[jax.Array, Any], Any], total: Any) -> Any:
    """Applies ``turn`` to each number below ``count`` and a total, as ``lax.fori_loop`` does."""
    return lax.fori_loop(0, count, lambda i, total: turn(_on_all_cores(i), total), total)


def stack(count: int, compute: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """What ``compute`` makes of each number below ``count``, on a new first axis."""
    return lax.map(lambda i: compute(_on_all_cores(i)), jnp.arange(count))


def stack_of_pairs(
    compute: Callable[[jax.Array, jax.Array], jax.Array], lhs: jax.Array, rhs: jax.Array
) -> jax.Array:
    """What ``compute`` makes of each pair of two arrays' elements along their first axes."""

    def of_pair(i: jax.Array) -> jax.Array:
        pair = (lax.dynamic_index_in_dim(array, i, keepdims=False) for array in (lhs, rhs))
        return compute(*pair)

    return stack(lhs.shape[0], of_pair)


def _on_all_cores(number: jax.Array) -> jax.Array:
    """The number, for a loop to use.

    XLA:CPU of JAX 0.12 makes of a loop one function, which runs on one core, unless there is an
    operation in it that it leaves to a library. To sort two numbers is one that takes no time.
    """
    return lax.sort(jnp.stack([number, number]))[0]


def zero_after(array: jax.Array) -> jax.Array:
    """A zero that XLA takes to depend on ``array``: what is padded with it is made afterwards."""
    flag = (array[(0,) * array.ndim] != 0).astype(jnp.int32)
    return lax.sort(jnp.stack([flag, jnp.zeros_like(flag)]))[0]


def apart(array: jax.Array) -> jax.Array:
    """The same array, over which XLA fuses nothing.

    It comes from a loop, of no turns, which XLA does not know.
    """
    return repeat(zero_after(array), lambda i, array: array + i.astype(array.dtype), array)


def take(turns: Sequence[Callable[[jax.Array], jax.Array]], total: jax.Array) -> jax.Array:
    """Applies functions to a total, each to what the one before it returned."""
    return repeat(len(turns), lambda i, total: lax.switch(i, turns, total), total)


def take_groups(
    compute: Callable[..., jax.Array],
    arrays: Sequence[jax.Array],
    count: int,
    shape: Sequence[int],
    dtype: DTypeLike,
) -> jax.Array:
    """What ``compute`` makes of arrays, as many parts of their last axis one after the other.

    Args:
        compute: takes a part of each array and returns that part of the result.
        arrays: whose last axes are the groups', or several for each group.
        count: of parts; divides the groups.
        shape: of the result, whose last axis is likewise.
        dtype: of the result.
    """
    if count == 1:
        return compute(*arrays)

    def add_part(i: jax.Array, result: jax.Array) -> jax.Array:
        def of_part(array: jax.Array) -> jax.Array:
            size = array.shape[-1] // count
            return lax.dynamic_slice_in_dim(array, i * size, size, -1)

        start = i * (shape[-1] // count)
        return lax.dynamic_update_slice_in_dim(result, compute(*map(of_part, arrays)), start, -1)

    return repeat(count, add_part, jnp.zeros(shape, dtype))


def add_rows(
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
        return take(turns, total)

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

    return repeat(len(loops), add_loop, total)


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
