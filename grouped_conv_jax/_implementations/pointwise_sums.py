"""Convolutions with 1x1 filters as sums over channels whose lanes are the filters of a group.

A pixel's numbers, the same for all filters, stay in registers while each meets a row of weights, so
that a term is one instruction that reads from the first-level cache. Nothing is split, transposed
or padded for it, and no zeros are multiplied.
"""

import math

import jax

from grouped_conv_jax._convolution import Convolution, Role, accumulator
from grouped_conv_jax._implementations import parts, pointwise, shifts, turns

# Vectors of eight are what XLA:CPU makes of float32, whatever the processor has, and of four that
# are left over single numbers: with 20 or 60 filters in all 0.8 to 1.2 of the time, with 12 less.
_LANES = 8
_HALF, _FEW_LANES = 4, 12
# Channels of the only turn, and of each of several. With AVX-512, 20 registers hold as many and it
# takes as long; without, 20 take up to 1.3 times as long as 12.
_ONE_TURN, _MOST_CHANNELS, _FEWEST_CHANNELS = 24, 16, 8
# The weights of a turn, for all groups, are to stay in the first-level cache: with 38 KB it takes
# up to 1.8 times as long as with 22, and with more than that a turn has few channels.
_CACHED_BYTES = 24 << 10
_MOST_LANES = 1024
# Each turn reads and writes the sums. Of few channels, and of sums that the caches do not hold,
# more turns than this take up to 2.3 times as long as matrix products.
_FEW_TURNS, _SMALL_BYTES, _ENOUGH_CHANNELS = 4, 8 << 20, 12
# Channels, at 2 ms each to compile.
_COMPILED_CHANNELS = 320
# Of smaller sums a matrix product takes as long.
_FEWEST_BYTES = 300_000
# What multiplies groups this wide takes them one by one, at nearly full speed.
_WIDE, _FEW_WIDE_LANES = 128, 512
# One group is a matrix product already, slow with less channels or filters than this.
_NARROW, _FEWEST_DENSE_BYTES = 32, 1_600_000


def suits(
    role: Role, images: jax.Array, channels: int, filters: int, convolution: Convolution
) -> bool:
    """Whether forward pass or input gradient can be computed by this, and is better so.

    Measured on two x86-64 cores with AVX-512, 8 images of 7x7 to 56x56 pixels in 2 to 64 groups of
    4 to 320 channels and filters, against matrix products of the groups: 0.2 to 0.9 of the time.
    One group of up to 32 channels or filters, to 112x112 pixels: 0.2 to 1. Of 16-bit numbers, which
    there are matrix products for, 0.4 to 2.7 and twice the memory: not this.

    Args:
        role: which of the two.
        images: the operand that has a batch, and with it the numbers' type.
        channels: per group.
        filters: per group.
        convolution: which one.
    """
    batch = images.shape[0]
    # An exported program's batch may not be known.
    if not pointwise.suits(convolution) or not isinstance(batch, int):
        return False
    if accumulator(images) != images.dtype:
        return False
    summed, width = (channels, filters) if role == Role.FORWARD else (filters, channels)
    lanes = convolution.groups * width
    if width % (_LANES if width > _FEW_LANES else _HALF):
        return False
    if lanes > _MOST_LANES or summed > _COMPILED_CHANNELS:
        return False
    float32_bytes = 4 * batch * math.prod(convolution.outputs) * lanes
    if convolution.groups == 1:
        return min(channels, filters) <= _NARROW and float32_bytes >= _FEWEST_DENSE_BYTES
    if width > _WIDE and lanes > _FEW_WIDE_LANES:
        return False
    most = _channels_a_turn(summed, lanes)
    few = math.ceil(summed / most) <= _FEW_TURNS or float32_bytes <= _SMALL_BYTES
    return float32_bytes >= _FEWEST_BYTES and (few or most >= _ENOUGH_CHANNELS)


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """``y`` ``(B, *outputs, G*F)``."""
    split = filters.reshape(filters.shape[-2], convolution.groups, -1)
    return _sums(pointwise.strided(x, convolution), split)


def input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """``x`` ``(B, *image, G*C)``."""
    split = filters.reshape(filters.shape[-2], convolution.groups, -1)
    # Fused into the sums, the transposition would keep LLVM from vectorizing them.
    transposed = turns.apart(split.T)
    return pointwise.spread(_sums(y, transposed), convolution)


def _channels_a_turn(channels: int, lanes: int) -> int:
    """The most channels that are added up at once."""
    # Of float32.
    cached = _CACHED_BYTES // (4 * lanes)
    if channels <= min(_ONE_TURN, cached):
        return channels
    return min(_MOST_CHANNELS, max(_FEWEST_CHANNELS, cached))


def _sums(images: jax.Array, weights: jax.Array) -> jax.Array:
    """Over the channels ``(B, *image, G*C)``, times weights ``(C, G, F)``: ``(B, *image, G*F)``."""
    dtype = accumulator(images, weights)
    channels, groups, filters = weights.shape
    pixels = images.reshape(-1, groups, channels).astype(dtype)
    weights = weights.astype(dtype)
    first, *others = (
        shifts.add_up([[pixels[:, :, i, None] * weights[i : i + 1] for i in turn]])
        for turn in parts.ranges(channels, _channels_a_turn(channels, groups * filters))
    )
    # With the groups' axis joined to that of the filters, XLA would make one loop of both, and read
    # every number of a pixel for every filter.
    total = turns.apart(first)
    for more in others:
        total = turns.apart(total + more)
    return total.reshape(*images.shape[:-1], -1)
