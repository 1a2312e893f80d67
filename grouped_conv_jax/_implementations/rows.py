"""Sums over taps whose lanes are the pixels of a row, of all images.

A weight is then one number for as many pixels as a row has times the images, kept in a register,
and the shifted rows that a sum reads fit the first-level cache, however many channels there are.
Two transpositions pay for it.
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from grouped_conv_jax._convolution import Convolution, Role, accumulator
from grouped_conv_jax._implementations import parts, phases, regions, shifts, turns

# Of so many terms are turns made; 64 or 96 take 0.9 to 1.3 times as long.
_TERMS_A_TURN = 32
# At 1.5 ms each to compile. Filters from 23x23 on have more, and turns of fewer are looped over:
# with 500, 29x29 and 31x31 take 0.9 to 1 of the time, twice as long to compile, and more memory.
_COMPILED_TERMS = 500
_LOOPED_TERMS = 200
# Groups are computed in as many parts, one after the other, as keep the transposed copies of one
# below this share of images and results. 2 to 8 parts take 0.7 to 1.3 times as long as all at once,
# the larger ones less, since memory that a program gets from the system costs 2 us for 4 KB.
_SHARE = 0.75
# Arrays as large as the sum that one part has besides its images.
_SUMS = 1.7
# Fewer pixels than this would leave vector registers empty.
_FEWEST_LANES = 8


def suits(convolution: Convolution, batch: int, planes: int) -> bool:
    """Whether forward pass and input gradient can be computed by this, and are better so.

    Measured on two x86-64 cores with 1 to 8 images of 14x14 to 56x56 pixels: filters from 9x9 to
    15x15 take 0.4 to 1.2 of the time of sums whose lanes are groups (9x9 with a stride once 1.5),
    those of 29x29 and 31x31 a fifth to half; 7x7 filters 0.8 to 1.3, of 5x5 1.4 to 2.

    Args:
        convolution: which one.
        batch: number of images.
        planes: that are summed for each plane of the result: channels, or filters, per group.
    """
    weights = planes * math.prod(convolution.filter_size)
    if len(convolution.image) == 1 or weights <= shifts.UNROLLED_WEIGHTS:
        return False
    # One row of terms would be one turn.
    if convolution.effective_filter_size[0] <= convolution.strides[0]:
        return False
    if convolution.strides[-1] > 1 and convolution.dilation[-1] > 1:
        return False
    # An exported program's batch may not be known.
    known = isinstance(batch, int) and all(convolution.outputs)
    return known and convolution.outputs[-1] * batch >= _FEWEST_LANES


def parts_of_groups(role: Role, lhs: jax.Array, rhs: jax.Array, convolution: Convolution) -> int:
    """In how many parts the groups are to be computed.

    In fewer than the share of memory asks for, where without a stride the sums of that many would
    be computed on one core and those of fewer need no more memory than inputs and outputs do.
    """
    dtype = accumulator(lhs, rhs)
    zeros = math.prod(convolution.padded) / math.prod(convolution.image)
    wider = dtype.itemsize / lhs.dtype.itemsize
    wanted = parts.divisor_about(convolution.groups, math.ceil(zeros * wider / _SHARE))
    if max(convolution.strides) > 1:
        return wanted
    planes = (lhs, rhs)[role.images].shape[-1] // convolution.groups
    row_terms, rows = planes * math.prod(convolution.filter_size[1:]), convolution.filter_size[0]
    most = _most_compiled(row_terms * rows)
    copied = 0.0
    if most < row_terms * rows:
        # A loop over turns has a copy of the rows that they read.
        reach = max(1, most // row_terms) * convolution.dilation[0] + convolution.image[0]
        copied = min(1.0, reach / convolution.padded[0])
    result = math.prod(convolution.shape(role, lhs.shape, rhs.shape)) * dtype.itemsize
    images = (lhs, rhs)[role.images].nbytes * wider
    needed = (zeros * (1 + copied) * images + _SUMS * result) / (lhs.nbytes + rhs.nbytes + result)
    parallel = (
        count
        for count in parts.divisors(convolution.groups)
        if needed <= count <= wanted and result / count >= turns.PARALLEL_BYTES
    )
    return max(parallel, default=wanted)


def _most_compiled(terms: int) -> int:
    """Of how many of a sum's terms turns are compiled."""
    return terms if terms <= _COMPILED_TERMS else _LOOPED_TERMS


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """``y`` ``(B, *outputs, G*F)``."""
    rank, groups = len(convolution.image), convolution.groups
    stride, dilation = convolution.strides[-1], convolution.dilation[-1]
    # A stride along the rows leaves pixels out: by their remainders they are rows of their own.
    size = convolution.filter_size[-1]
    quotients = -(-size // stride)
    width = convolution.outputs[-1] + (quotients - 1) * dilation
    padding = list(convolution.padding)
    before = padding[-1][0]
    padding[-1] = (before, width * stride - before - convolution.image[-1])

    dtype = accumulator(x, filters)
    x = shifts.pad(x, padding).astype(dtype)
    x = x.reshape(*x.shape[:rank], width, stride, groups, -1)
    # (B, *outer, W, s, G, C) to (*outer, C * s, G, W, B)
    order = [*range(1, rank), rank + 3, rank + 1, rank + 2, rank, 0]
    images = jnp.transpose(x, order)
    images = images.reshape(*images.shape[: rank - 1], -1, *images.shape[-3:])

    columns = rank - 1
    spread = [(0, 0, 0)] * filters.ndim
    spread[columns] = (0, quotients * stride - size, 0)
    filters = lax.pad(filters, jnp.zeros((), filters.dtype), spread)
    filters = filters.reshape(
        *filters.shape[:columns], quotients, stride, filters.shape[-2], groups, -1
    )
    # (N, *outer, Q, s, C, G, F) to (N, G, F, *outer, Q, C * s)
    order = [0, rank + 2, rank + 3, *range(1, rank), rank + 1, rank]
    weights = jnp.transpose(filters.astype(dtype), order)
    weights = weights.reshape(*weights.shape[:-2], -1)

    counts = [*convolution.filter_size[:-1], quotients]
    terms = [
        [regions.Shift(i, i * step) for i in range(count)]
        for count, step in zip(counts, convolution.dilation, strict=True)
    ]
    strides = (*convolution.strides[:-1], 1)
    total = _sum(images, weights, terms, convolution.outputs, strides)
    # (*outer, G, F, W, B) to (B, *outer, W, G, F)
    y = jnp.transpose(total, [rank + 2, *range(rank - 1), rank + 1, rank - 1, rank])
    return y.reshape(*y.shape[: rank + 1], -1)


def input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """``x`` ``(B, *image, G*C)``."""
    rank, groups = len(convolution.image), convolution.groups
    axes = phases.axes(convolution)
    dtype = accumulator(filters, y)
    y = shifts.pad(y, [axis.padding for axis in axes]).astype(dtype)
    y = y.reshape(*y.shape[:-1], groups, -1)
    # (B, *outer, W, G, F) to (*outer, F, G, W, B)
    images = jnp.transpose(y, [*range(1, rank), rank + 2, rank + 1, rank, 0])

    split = phases.split_filters(filters.astype(dtype), convolution)
    split = split.reshape(*split.shape[:-1], groups, -1)
    # (Q1, s1, Q2, s2, ..., C, G, F) to (Q1, G, s1 * s2 * ... * C, Q2, ..., F)
    behind = 2 * rank
    taps, strides = range(2, behind, 2), range(1, behind, 2)
    weights = jnp.transpose(split, [0, behind + 1, *strides, behind, *taps, behind + 2])
    weights = weights.reshape(*weights.shape[:2], -1, *weights.shape[-rank:])

    terms = [
        [regions.Shift(q // axis.dilation, axis.quotients[-1] - q) for q in axis.quotients]
        for axis in axes
    ]
    counts = [axis.count for axis in axes]
    total = _sum(images, weights, terms, counts, (1,) * rank)
    total = total.reshape(*counts[:-1], groups, *convolution.strides, -1, *total.shape[-2:])
    # (M1, ..., G, s1, s2, ..., C, Mn, B) to (B, M1, s1, ..., Mn, sn, G, C)
    pairs = [position for i in range(rank - 1) for position in (i, rank + i)]
    order = [behind + 2, *pairs, behind + 1, 2 * rank - 1, rank - 1, behind]
    x = jnp.transpose(total, order)
    return phases.interleave(x.reshape(*x.shape[: 2 * rank + 1], -1), axes)


def _sum(
    images: jax.Array,
    weights: jax.Array,
    terms: Sequence[Sequence[regions.Shift]],
    counts: Sequence[int],
    strides: Sequence[int],
) -> jax.Array:
    """``(*outer, G, P, W, B)``: for every plane of weights ``P`` a sum over the ``K`` images.

    Args:
        images: ``(*outer, K, G, W, B)``.
        weights: ``(N, G, P, *taps, K)``, where ``N`` are the taps of the first axis.
        terms: for each spatial axis their shifts.
        counts: the sum's size along each.
        strides: the window's step along each.
    """
    *outer, _, groups, width, batch = images.shape
    planes, taps = weights.shape[2], weights.shape[3:]
    # XLA copies what a loop gets if its axes of size one are not where it wants them.
    images = images.reshape(*outer, -1, width * batch)
    weights = weights.reshape(weights.shape[0], groups * planes, -1)
    lanes = counts[-1] * batch
    first, *others = terms

    def compute(
        images: Sequence[jax.Array], weights: Sequence[jax.Array], region: regions.Region
    ) -> jax.Array:
        [image], [flat] = images, weights

        def product(term: Sequence[regions.Shift], k: int) -> jax.Array:
            *positions, column = (shift.start for shift in term)
            starts = [*positions, k * groups, column * batch]
            steps = [*strides[:-1], 1, 1]
            sizes = [region.count, *counts[1:-1], groups, lanes]
            ends = [a + (n - 1) * s + 1 for a, n, s in zip(starts, sizes, steps, strict=True)]
            shifted = lax.slice(image, starts, ends, steps)
            row, *behind = (shift.weight or 0 for shift in term)
            index = int(np.ravel_multi_index([*behind, k], taps))
            weight = lax.slice(flat, (row, 0, index), (row + 1, groups * planes, index + 1))
            if planes > 1:
                shifted = jnp.repeat(shifted, planes, -2)
            return shifted * jnp.expand_dims(weight, range(len(outer) - 1))

        if not region.shifts:
            return jnp.zeros((*counts[:-1], groups * planes, lanes), image.dtype)
        return shifts.add_up(
            [
                product((shift, *rest), k)
                for rest in itertools.product(*others)
                for k in range(taps[-1])
            ]
            for shift in region.shifts
        )

    row_terms = taps[-1] * math.prod(map(len, others))
    # In at least two turns, or XLA would fuse the transposition into the sum.
    rows = min(max(1, _TERMS_A_TURN // row_terms), math.ceil(len(first) / 2))
    region = regions.Region(0, counts[0], tuple(first))
    total = turns.add_rows(
        compute,
        [images],
        [weights],
        region,
        strides[0],
        row_terms,
        rows,
        _most_compiled(row_terms * len(first)),
        axis=0,
    )
    return total.reshape(*counts[:-1], groups, planes, counts[-1], batch)
