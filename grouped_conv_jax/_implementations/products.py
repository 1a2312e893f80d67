"""Filter gradients as matrix products of gathered windows."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax._convolution import Convolution, accumulator
from grouped_conv_jax._implementations import parts, shifts, turns

# Of as many images at a time as take no more bytes than this. 2 to 8 MB take about as long; more
# take up to twice as long, for want of cache and of memory that the program holds already.
_TURN_BYTES = 5 << 20
# And no more than this share of what the operands and the result have.
_TURN_SHARE = 0.8
# Rows of more taps together, or if one image takes more bytes, take turns.
_MOST_TAPS = 64
# Of a longer first axis the taps are divided between both operands' windows. Of 7x7 and 11x11
# filters products in two turns take 1.6 times as long.
_MOST_SHIFTED = 12
# XLA:CPU fuses the concatenation of up to so many arrays with what computes them.
_MOST_FUSED = 8


def of_blocks(x: jax.Array, y: jax.Array, convolution: Convolution, merged: int) -> jax.Array:
    """Filters ``(*filter, C, G*F)``: the diagonal of products of ``merged`` groups at a time.

    XLA:CPU computes a product at full speed in a loop too, where a convolution would run on one
    core. So blocks of groups, and a few images of each, take turns in one loop, which compiles
    once and holds the windows of one turn. Unrolled, with the windows of all in memory, the same
    products take up to four times as long.

    Tap ``i`` multiplies pixel ``o * s + i * d`` of the padded image and output ``o``. Along a first
    axis without a stride, with ``i = a * q + b``, these are pixel ``r + a * q * d`` and output
    ``r - b * d``: the windows of ``x`` are then of the ``a``, and of all taps of the other axes,
    those of ``y`` of the ``q`` ``b``. For 3x3 filters that makes six arrays in place of nine, and
    a product of ``3 * C`` by ``3 * F`` in place of ``9 * C`` by ``F``.

    Args:
        x: ``(B, *image, G*C)``.
        y: ``(B, *outputs, G*F)``.
        convolution: of which this is the filter gradient.
        merged: groups of a block, which divides theirs.
    """
    dtype = accumulator(x, y)
    blocks = convolution.groups // merged
    channels, filters = x.shape[-1] // blocks, y.shape[-1] // blocks
    size, strides, dilation = convolution.filter_size, convolution.strides, convolution.dilation[0]
    plan = _plan(x, y, convolution, blocks)
    chunks, rows = x.shape[0] // plan.images, plan.turns * plan.rows
    reach, step = (plan.shifted - 1) * dilation, plan.shifted * dilation
    # The last turn may have taps that the filter has not.
    (before, after), beyond = convolution.padding[0], (rows * plan.shifted - size[0]) * dilation
    left_out = plan.left_out
    x_padding = [(before - left_out[0], after + beyond - left_out[1]), *convolution.padding[1:]]
    y_padding = [(reach - left_out[0], reach - left_out[1]), *[(0, 0)] * (len(size) - 1)]
    x_starts = [range(0, plan.rows * step, step)]
    for count, distance in zip(size[1:], convolution.dilation[1:], strict=True):
        x_starts.append(range(0, count * distance, distance))
    y_starts = [range(reach, -1, -dilation), *[range(1)] * (len(size) - 1)]
    extent = (plan.counts[0] - 1) * strides[0] + x_starts[0][-1] + 1

    def of_turn(array: jax.Array, chunk: jax.Array, block: jax.Array, width: int) -> jax.Array:
        part = lax.dynamic_slice_in_dim(array, block * width, width, -1)
        if chunks == 1:
            return part
        return lax.dynamic_slice_in_dim(part, chunk * plan.images, plan.images, 0)

    def matrix(array: jax.Array, starts: list[range], strides: Sequence[int]) -> jax.Array:
        windows = _windows(array, starts, plan.counts, strides).astype(dtype)
        return windows.reshape(-1, math.prod(map(len, starts)) * array.shape[-1])

    def add(turn: jax.Array, gradient: jax.Array) -> jax.Array:
        block, chunk = turn // chunks, turn % chunks
        image = shifts.pad(of_turn(x, chunk, block, channels), x_padding)
        cotangent = shifts.pad(of_turn(y, chunk, block, filters), y_padding)
        rhs = matrix(cotangent, y_starts, [1] * len(size))

        def add_rows(turn: jax.Array, gradient: jax.Array) -> jax.Array:
            met = image
            if plan.turns > 1:
                met = lax.dynamic_slice_in_dim(image, turn * plan.rows * step, extent, 1)
            product = lax.dot_general(
                matrix(met, x_starts, strides),
                rhs,
                (((0,), (0,)), ((), ())),
                precision=convolution.precision,
            )
            own = diagonal(product.reshape(-1, channels, plan.shifted, filters), merged)
            starts = (turn * len(own), 0, 0, block * filters)
            total = lax.dynamic_slice(gradient, starts, own.shape) + own
            return lax.dynamic_update_slice(gradient, total, starts)

        return turns.repeat(plan.turns, add_rows, gradient)

    # (a, the other axes' taps, C, b, G*F), the order of the products.
    own_channels = channels // merged
    whole = (rows * math.prod(size[1:]), own_channels, plan.shifted, y.shape[-1])
    gradient = turns.repeat(blocks * chunks, add, jnp.zeros(whole, dtype))
    split = jnp.moveaxis(gradient.reshape(rows, *size[1:], *whole[1:]), -2, 1)
    return split.reshape(-1, *size[1:], own_channels, y.shape[-1])[: size[0]]


def diagonal(products: jax.Array, merged: int) -> jax.Array:
    """``(..., merged*C, n, merged*F)`` to each group's own ``(..., C, n, merged*F)``."""
    *others, channels, count, filters = products.shape
    groups = products.reshape(*others, merged, channels // merged, count, merged, filters // merged)
    own = jnp.diagonal(groups, axis1=-5, axis2=-2)  # (..., C, n, F, merged)
    return jnp.swapaxes(own, -1, -2).reshape(*others, channels // merged, count, filters)


def _windows(
    array: jax.Array,
    starts: Sequence[Sequence[int]],
    counts: Sequence[int],
    strides: Sequence[int],
    chosen: tuple[int, ...] = (),
) -> jax.Array:
    """``(B, *counts, *taps, C)``: by the start along each axis, an axis of taps for each."""
    axis = len(chosen)
    if axis == len(starts):
        return shifts.window(array, chosen, counts, strides)
    windows = [_windows(array, starts, counts, strides, (*chosen, i)) for i in starts[axis]]
    return jnp.stack(windows, len(counts) + 1)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a turn of :func:`of_blocks` multiplies.

    Attributes:
        shifted: how many windows of ``y``, along the first axis: ``q``.
        rows: how many windows of ``x`` along the first axis.
        turns: how many turns they take.
        images: how many at a time.
        counts: size of the windows.
        left_out: pixels of the padded image, before and after the first axis, that are zero in
            every window.
    """

    shifted: int
    rows: int
    turns: int
    images: int
    counts: tuple[int, ...]
    left_out: tuple[int, int]


def _plan(x: jax.Array, y: jax.Array, convolution: Convolution, blocks: int) -> _Plan:
    first_size, *other_sizes = convolution.filter_size
    unit = convolution.strides[0] == 1
    steps = math.ceil(first_size / _MOST_SHIFTED) if unit else first_size
    shifted = math.ceil(first_size / steps)
    first_count = convolution.outputs[0] + (shifted - 1) * convolution.dilation[0]
    left_out = 0, 0
    if unit and steps == 1:
        # An image that is cropped to nothing has no pixel that is not zero.
        most_left_out = (first_count - 1) // 2
        before, after = (min(max(n, 0), most_left_out) for n in convolution.padding[0])
        left_out = before, after
    counts = (first_count - sum(left_out), *convolution.outputs[1:])

    dtype, batch, row_taps = accumulator(x, y), x.shape[0], math.prod(other_sizes)
    channels, filters = x.shape[-1] // blocks, y.shape[-1] // blocks

    def image_bytes(rows: int) -> int:
        of_x = rows * row_taps * channels
        of_y = shifted * filters if shifted > 1 else 0
        # Windows that are made one by one before they are joined.
        one_by_one = [of_x] if max([rows, *other_sizes]) > _MOST_FUSED else []
        one_by_one += [of_y] if shifted > _MOST_FUSED else []
        numbers = channels + filters + of_x + of_y + max(one_by_one, default=0)
        return math.prod(counts) * numbers * dtype.itemsize

    most: float = _TURN_BYTES
    # An exported program's batch may not be known, and is not divided then.
    known = isinstance(batch, int)
    if known:
        result = math.prod(convolution.filter_size) * channels * y.shape[-1] * dtype.itemsize
        most = min(most, _TURN_SHARE * (x.nbytes + y.nbytes + result))

    def fits(rows: int) -> bool:
        return rows * row_taps <= _MOST_TAPS and image_bytes(rows) <= most

    turns = next((n for n in range(1, steps) if fits(math.ceil(steps / n))), steps)
    rows = math.ceil(steps / turns)
    images = parts.divisor_up_to(batch, most / image_bytes(rows)) if known else batch
    return _Plan(shifted, rows, turns, images, counts, left_out)
