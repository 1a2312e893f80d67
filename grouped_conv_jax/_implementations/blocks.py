"""Neighbouring groups merged into block-diagonal dense convolutions.

A dense convolution a few dozen channels wide runs at the speed of a matrix product, which XLA's
grouped one never does; the zeros off the diagonal cost less than the groups' own loop. Where sums
whose lanes are filters are faster, of a few taps or of 1x1 filters, they take its place.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from grouped_conv_jax._convolution import Convolution, Role
from grouped_conv_jax._implementations import (
    lanes,
    lax,
    parts,
    phases,
    pointwise,
    pointwise_sums,
    products,
    turns,
)

# Narrower matrix products leave the vector units idle, wider ones multiply more zeros.
_BLOCK_CHANNELS = 16
# One matrix product of two groups with 1x1 filters takes half to all of the time that splitting the
# images, multiplying them by groups and joining the results takes; of three groups, up to twice.
_GROUPS_OF_ONE_PRODUCT = 2
# More blocks than this are looped over, since the time to compile grows with them. XLA:CPU computes
# a convolution in a loop on one core, without its fast kernels: twenty times slower.
_UNROLLED_BLOCKS = 64


def unsupported(role: Role, convolution: Convolution, channels: int, filters: int) -> str | None:
    """Why this implementation cannot compute ``role``, or ``None``."""
    del role, convolution, channels, filters
    return None


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """``y`` ``(B, *outputs, G*F)``."""
    widths = _widths(filters, convolution)
    for sums in (pointwise_sums, lanes):
        if sums.suits(Role.FORWARD, x, *widths, convolution):
            return sums.forward(x, filters, convolution)
    narrower = min(widths)
    dense, merged = _merge(convolution, narrower)
    blocks = _block_diagonal(filters, convolution.groups, merged)
    function = pointwise.forward if pointwise.suits(dense) else lax.forward
    return _each(functools.partial(function, convolution=dense), _split(x, len(blocks)), blocks)


def input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """``x`` ``(B, *image, G*C)``."""
    widths = _widths(filters, convolution)
    for sums in (pointwise_sums, lanes):
        if sums.suits(Role.INPUT_GRADIENT, y, *widths, convolution):
            return sums.input_gradient(filters, y, convolution)
    narrower = min(widths)
    dense, merged = _merge(convolution, narrower)
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
    # With 4 * 16 channels and filters, merging groups to 16 * 64 takes twice as long.
    dense, merged = _merge(convolution, max(x.shape[-1], y.shape[-1]) // groups)
    count = groups // merged
    if not pointwise.suits(dense):
        return products.of_blocks(x, y, convolution, merged)

    def own(x: jax.Array, y: jax.Array) -> jax.Array:
        product = pointwise.filter_gradient(x, y, dense)
        return products.diagonal(product[..., None, :], merged)[..., 0, :]

    return _each(own, _split(x, count), _split(y, count))


def _widths(filters: jax.Array, convolution: Convolution) -> tuple[int, int]:
    """Channels and filters of a group."""
    return filters.shape[-2], filters.shape[-1] // convolution.groups


def _each(
    compute: Callable[[jax.Array, jax.Array], jax.Array],
    lhs: Sequence[jax.Array],
    rhs: Sequence[jax.Array],
) -> jax.Array:
    """Joins what ``compute`` makes of each block, on the last axis."""
    if len(lhs) <= _UNROLLED_BLOCKS:
        return jnp.concatenate([compute(*block) for block in zip(lhs, rhs, strict=True)], -1)
    stacked = turns.stack_of_pairs(compute, jnp.stack(lhs), jnp.stack(rhs))
    joined = jnp.moveaxis(stacked, 0, -2)
    return joined.reshape(*joined.shape[:-2], -1)


def _merge(convolution: Convolution, width: int) -> tuple[Convolution, int]:
    """The dense convolution of one block, and how many groups, ``width`` wide, it merges."""
    dense = dataclasses.replace(convolution, groups=1)
    if pointwise.suits(dense) and convolution.groups <= _GROUPS_OF_ONE_PRODUCT:
        return dense, convolution.groups
    wanted = math.ceil(_BLOCK_CHANNELS / width)
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
