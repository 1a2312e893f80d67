"""Neighbouring groups merged into block-diagonal dense convolutions.

A dense convolution a few dozen channels wide runs at the speed of a matrix product, which XLA's
grouped one never does; the zeros off the diagonal cost less than the groups' own loop.
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from grouped_conv_jax._convolution import Convolution, Role
from grouped_conv_jax._implementations import lax, parts, phases, pointwise, products

# Narrower matrix products leave the vector units idle, wider ones multiply more zeros.
_BLOCK_CHANNELS = 16
# One matrix product of two groups with 1x1 filters takes half to all of the time that splitting the
# images, multiplying them by groups and joining the results takes; of three groups, up to twice.
_GROUPS_OF_ONE_PRODUCT = 2
# More blocks than this are looped over, since the time to compile grows with them. XLA:CPU computes
# what is in a loop on one core, without its fast matrix products: twenty times slower.
_UNROLLED_BLOCKS = 64
# Products that a filter gradient adds up before its parts are added. If a block has more than 16
# filters XLA:CPU's convolution adds up hundreds one by one, and rounding errors are 1.6 to 8 times
# those of lax's grouped convolution; in parts they are 1 to 2 times, in 0.6 to 1.6 of the time.
_PRODUCTS_A_PART = 340
# Convolutions that a filter gradient is unrolled into, and those of one block.
_UNROLLED_PARTS, _PARTS_OF_BLOCK = 128, 32
# Products that take turns, at 30 ms each to compile.
_UNROLLED_PRODUCTS = 64


def unsupported(role: Role, convolution: Convolution, channels: int, filters: int) -> str | None:
    """Why this implementation cannot compute ``role``, or ``None``."""
    del role, convolution, channels, filters
    return None


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """``y`` ``(B, *outputs, G*F)``."""
    dense, merged = _merge(convolution, filters.shape[-2], filters.shape[-1] // convolution.groups)
    blocks = _block_diagonal(filters, convolution.groups, merged)
    function = pointwise.forward if pointwise.suits(dense) else lax.forward
    return _each(functools.partial(function, convolution=dense), _split(x, len(blocks)), blocks)


def input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """``x`` ``(B, *image, G*C)``."""
    dense, merged = _merge(convolution, filters.shape[-2], filters.shape[-1] // convolution.groups)
    blocks = _block_diagonal(filters, convolution.groups, merged)
    function: Callable[..., jax.Array] = lax.input_gradient
    if pointwise.suits(dense):
        function = pointwise.input_gradient
    elif max(dense.strides) > 1:
        function = functools.partial(phases.input_gradient, forward=lax.forward)
    return _each(functools.partial(function, convolution=dense), blocks, _split(y, len(blocks)))


def filter_gradient(x: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """Filters ``(*filter, C, G*F)``: the dense gradient's diagonal blocks."""
    groups = convolution.groups
    channels, filters = x.shape[-1] // groups, y.shape[-1] // groups
    dense, merged = _merge(convolution, channels, filters)
    count = groups // merged

    def diagonal(gradient: jax.Array) -> jax.Array:
        blocks = gradient.reshape(*convolution.filter_size, merged, channels, merged, filters)
        own = jnp.diagonal(blocks, axis1=-4, axis2=-2)  # (*filter, C, F, merged)
        return jnp.swapaxes(own, -1, -2).reshape(*own.shape[:-2], -1)

    function: Callable[..., jax.Array] = pointwise.filter_gradient
    if not pointwise.suits(dense):
        if _is_better_as_products(x, y, count, dense):
            return jnp.concatenate(
                [diagonal(block) for block in products.of_blocks(x, y, dense, count)], -1
            )
        most = min(_PARTS_OF_BLOCK, max(1, _UNROLLED_PARTS // count))
        function = functools.partial(_sum_of_parts, most=most)
    return _each(lambda x, y: diagonal(function(x, y, dense)), _split(x, count), _split(y, count))


def _is_better_as_products(x: jax.Array, y: jax.Array, count: int, dense: Convolution) -> bool:
    """Whether products, one for each tap of each block, take less time than convolutions.

    Measured with two and five groups of 24 to 192 channels on two x86-64 cores: 0.5 to 1.1 of the
    time, half of the rounding errors and less memory.
    """
    narrowest = min(x.shape[-1], y.shape[-1]) // count
    few = count * math.prod(dense.filter_size) <= _UNROLLED_PRODUCTS
    return few and narrowest > _BLOCK_CHANNELS and x.dtype == jnp.float32


def _sum_of_parts(x: jax.Array, y: jax.Array, dense: Convolution, most: int) -> jax.Array:
    """The filter gradient of one block, a few images and rows of outputs at a time.

    Args:
        x: ``(B, *image, C)``.
        y: ``(B, *outputs, F)``.
        dense: the block's convolution.
        most: parts.
    """
    batch, rows = y.shape[:2]
    # Results of 16 bits are rounded more coarsely than their sums. An exported program's batch may
    # not be known.
    if x.dtype != jnp.float32 or y.shape[-1] <= _BLOCK_CHANNELS or not isinstance(batch, int):
        return lax.filter_gradient(x, y, dense)
    count = min(most, math.ceil(batch * math.prod(dense.outputs) / _PRODUCTS_A_PART))
    parts_of_rows = min(rows, count)
    wanted = count / parts_of_rows
    parts_of_batch = min((n for n in parts.divisors(batch) if n >= wanted), default=batch)
    edges = [rows * i // parts_of_rows for i in range(parts_of_rows + 1)]

    stride, extent = dense.strides[0], dense.effective_filter_size[0]
    before = dense.padding[0][0]
    gradients = []
    for start, stop in itertools.pairwise(edges):
        after = (stop - 1) * stride + extent - before - dense.image[0]
        padding = ((before - start * stride, after), *dense.padding[1:])
        part = dataclasses.replace(dense, padding=padding)
        split = (jnp.split(array, parts_of_batch) for array in (x, y[:, start:stop]))
        gradients += [lax.filter_gradient(a, b, part) for a, b in zip(*split, strict=True)]
    return functools.reduce(operator.add, gradients)


def _each(
    compute: Callable[[jax.Array, jax.Array], jax.Array],
    lhs: Sequence[jax.Array],
    rhs: Sequence[jax.Array],
) -> jax.Array:
    """Joins what ``compute`` makes of each block, on the last axis."""
    if len(lhs) <= _UNROLLED_BLOCKS:
        return jnp.concatenate([compute(*block) for block in zip(lhs, rhs, strict=True)], -1)
    stacked = jax.lax.map(lambda block: compute(*block), (jnp.stack(lhs), jnp.stack(rhs)))
    joined = jnp.moveaxis(stacked, 0, -2)
    return joined.reshape(*joined.shape[:-2], -1)


def _merge(convolution: Convolution, channels: int, filters: int) -> tuple[Convolution, int]:
    """The dense convolution of one block, and how many groups it merges."""
    dense = dataclasses.replace(convolution, groups=1)
    if pointwise.suits(dense) and convolution.groups <= _GROUPS_OF_ONE_PRODUCT:
        return dense, convolution.groups
    wanted = math.ceil(_BLOCK_CHANNELS / min(channels, filters))
    return dense, parts.divisor_about(convolution.groups, wanted)


def _split(array: jax.Array, count: int) -> list[jax.Array]:
    return jnp.split(array, count, axis=-1)


def _block_diagonal(filters: jax.Array, groups: int, merged: int) -> list[jax.Array]:
    """``(*filter, C, G*F)`` to ``G / merged`` filters ``(*filter, merged*C, merged*F)``."""
    *size, channels, outputs = filters.shape
    count, each = groups // merged, outputs // groups
    split = filters.reshape(*size, 1, channels, count, merged, each)
    # A group's channels meet its own filters alone.
    own = jnp.eye(merged, dtype=bool).reshape(merged, 1, 1, merged, 1)
    spread = jnp.where(own, split, jnp.zeros((), filters.dtype))
    return [
        spread[..., i, :, :].reshape(*size, merged * channels, merged * each) for i in range(count)
    ]
