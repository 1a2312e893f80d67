"""Sums over taps and channels whose lanes are filters of a group.

What a pixel adds to them is one of its numbers, the same for all lanes, times a vector of weights.
With the pixels inside the groups, the weights of two dozen terms stay in registers while a sum goes
over an image: a term reads one number, and no zeros are multiplied. Two transpositions pay for it.
"""

import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax._convolution import Convolution, Role, accumulator
from grouped_conv_jax._implementations import parts, phases, shifts, turns

# Vectors of eight are what XLA:CPU makes of float32, whatever the processor has.
_LANES = 8
# Of more weights not all stay in registers; sums of fewer terms LLVM does not vectorize, ten times
# slower. With 24 to 28 terms a core does 42 thousand million a second, with 16 34, with 36 37.
_FEWEST_TERMS, _BEST_TERMS, _MOST_TERMS = 16, 26, 36
# Dense convolutions of more channels and filters than this run as fast.
_WIDEST = 32
# Outputs of an image from which on an input gradient with a stride gains: of fewer, the weights of
# all phases, and their copies, are as large as the images.
_FEWEST_STRIDED = 512
# Images of more bytes take turns: what is copied of them would not stay in the caches.
_TURN_BYTES = 9 << 20


def suits(
    role: Role, images: jax.Array, channels: int, filters: int, convolution: Convolution
) -> bool:
    """Whether forward pass or input gradient can be computed by this, and is better so.

    Measured on two x86-64 cores with AVX-512, 8 images of 7x7 to 112x112 pixels and 3x3 filters,
    against blocks: with 8 to 32 channels and filters 0.5 to 0.75 of the time, with a stride 0.55 to
    1.1 forward and 0.7 to 0.85 for the input gradient.

    Args:
        role: which of the two.
        images: the operand that has a batch.
        channels: per group.
        filters: per group.
        convolution: which one.
    """
    batch = images.shape[0]
    if min(channels, filters) > _WIDEST or not isinstance(batch, int):
        # An exported program's batch may not be known.
        return False
    summed, lanes = channels, filters
    if role == Role.INPUT_GRADIENT:
        if max(convolution.strides) > 1 and math.prod(convolution.outputs) < _FEWEST_STRIDED:
            return False
        summed, lanes = filters, channels * math.prod(convolution.strides)
        convolution = phases.as_forward(convolution)
    if lanes % _LANES or not _channels_a_turn(summed, math.prod(convolution.filter_size)):
        return False
    float32_bytes = 4 * batch * math.prod(convolution.outputs) * lanes * convolution.groups
    return float32_bytes >= turns.PARALLEL_BYTES


def _channels_a_turn(channels: int, taps: int) -> int:
    """How many channels, not all, make enough terms but not too many, or 0."""
    *some, _ = parts.divisors(channels)
    few = (n for n in some if _FEWEST_TERMS <= n * taps <= _MOST_TERMS)
    return min(few, key=lambda n: abs(n * taps - _BEST_TERMS), default=0)


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """``y`` ``(B, *outputs, G*F)``."""
    dtype, batch, channels = accumulator(x, filters), x.shape[0], filters.shape[-2]
    taken = _channels_a_turn(channels, math.prod(convolution.filter_size))
    padded = math.prod(convolution.padded) * x.shape[-1] * dtype.itemsize
    count = parts.divisor_about(batch, math.ceil(batch * padded / _TURN_BYTES))
    if count == 1:
        return _sums(x, filters, convolution, taken)

    def add_images(turn: jax.Array, y: jax.Array) -> jax.Array:
        start = turn * (batch // count)
        images = lax.dynamic_slice_in_dim(x, start, batch // count, 0)
        part = _sums(images, filters, convolution, taken)
        return lax.dynamic_update_slice_in_dim(y, part, start, 0)

    shape = convolution.shape(Role.FORWARD, x.shape, filters.shape)
    return turns.repeat(count, add_images, jnp.zeros(shape, dtype))


def input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """``x`` ``(B, *image, G*C)``."""
    return phases.input_gradient(filters, y, convolution, forward)


def _sums(x: jax.Array, filters: jax.Array, convolution: Convolution, taken: int) -> jax.Array:
    """As :func:`forward`, of ``taken`` channels at a time."""
    rank, groups, batch = len(convolution.image), convolution.groups, x.shape[0]
    dtype = accumulator(x, filters)
    channels, blocks = filters.shape[-2], filters.shape[-1] // groups // _LANES
    count = channels // taken
    # Of no more than half of the channels there is a copy at a time, fewer if padding adds much.
    zeros = math.prod(convolution.padded) / math.prod(convolution.image)
    copies = parts.divisor_about(count, max(2, math.ceil(zeros)))
    copied = channels // copies

    images = x.reshape(*x.shape[:-1], groups, channels)
    # (*filter, C, G*F) to (count, taps * c, G, blocks, lanes)
    weights = filters.astype(dtype).reshape(-1, count, taken, groups, blocks, _LANES)
    weights = jnp.swapaxes(weights, 0, 1).reshape(count, -1, groups, blocks, _LANES)
    offsets = shifts.offsets(convolution)
    extents = [
        (n - 1) * s + 1 for n, s in zip(convolution.outputs, convolution.strides, strict=True)
    ]

    def product(image: jax.Array, offset: tuple[int, ...], weight: jax.Array) -> jax.Array:
        """Of windows ``(G, 1, B, *outputs, 1)`` and a vector for every ``(G, blocks)``."""
        stops = [start + size for start, size in zip(offset, [*extents, 1], strict=True)]
        window = lax.slice(
            image,
            (0, 0, *offset),
            (groups, batch, *stops),
            (1, 1, *convolution.strides, 1),
        )
        return window[:, None] * jnp.expand_dims(weight, range(2, 3 + rank))

    def add_copy(copy: jax.Array, total: jax.Array) -> jax.Array:
        part = lax.dynamic_slice_in_dim(images, copy * copied, copied, -1).astype(dtype)
        inside = jnp.moveaxis(part, -2, 0)  # (G, B, *image, c)
        # With axes joined that were not neighbours there is a copy, which sums in a loop read.
        joined = inside.reshape(-1, *inside.shape[2:])
        edges = [(0, 0), *convolution.padding, (0, 0)]
        padded = lax.pad(joined, jnp.zeros((), dtype), [(a, b, 0) for a, b in edges])

        def add_turn(turn: jax.Array, total: jax.Array) -> jax.Array:
            image = padded.reshape(groups, batch, *padded.shape[1:])
            image = lax.dynamic_slice_in_dim(image, turn * taken, taken, -1)
            own = lax.dynamic_index_in_dim(weights, copy * (count // copies) + turn, keepdims=False)
            terms = enumerate(itertools.product(*offsets, range(taken)))
            products = [product(image, offset, own[i]) for i, offset in terms]
            return total + shifts.add_up([products]).reshape(total.shape)

        return turns.repeat(count // copies, add_turn, total)

    sizes = (groups, blocks, batch, *convolution.outputs, _LANES)
    flat = (groups * blocks * batch, math.prod(convolution.outputs), _LANES)
    total = turns.repeat(copies, add_copy, jnp.zeros(flat, dtype))
    # (G, blocks, B, *outputs, lanes) to (B, *outputs, G, blocks, lanes)
    y = jnp.moveaxis(total.reshape(sizes), (0, 1), (-3, -2))
    return y.reshape(*y.shape[: rank + 1], -1)
