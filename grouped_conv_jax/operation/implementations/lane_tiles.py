"""Merges neighbouring groups up to the width of a lane tile, in one convolution of fewer groups.

A TPU multiplies tiles of 128 channels, and GPU libraries have no fast path for narrow groups. The
filters of ``n`` groups are copied ``n`` times along their channel axis and masked, which makes them
block-diagonal without moving a channel to another lane. Multiplying the zeros is free where the
tile was idle, but it spreads a NaN or an infinity to the other groups of its block.
"""

import dataclasses
import functools
import math
import operator

import jax
import jax.numpy as jnp

from grouped_conv_jax.operation._description import Convolution, Role
from grouped_conv_jax.operation.implementations import lax_convolution, pointwise

LANES = 128
# 1x1 filters of all groups form one matrix product up to this width.
_WIDEST_PRODUCT = 256


def count(convolution: Convolution, channels: int, filters: int, devices: int = 1) -> int:
    """The number of neighbouring groups to merge: as many as fit into a lane tile, or all.

    The number divides the number of groups. If devices can share the groups evenly, no block
    crosses a device.
    """
    groups, widest = convolution.groups, max(channels, filters)
    shard = groups // math.gcd(groups, devices)
    if pointwise.suits(convolution) and shard * widest <= _WIDEST_PRODUCT:
        return shard
    most = max(LANES // widest, 1)
    return next(n for n in range(min(most, shard), 0, -1) if shard % n == 0)


def forward(
    x: jax.Array, filters: jax.Array, convolution: Convolution, devices: int = 1
) -> jax.Array:
    """``y`` ``(B, *outputs, G*F)``."""
    wide, merged = _merge(convolution, filters.shape, devices)
    return lax_convolution.forward(x, spread(filters, convolution.groups, merged), wide)


def input_gradient(
    filters: jax.Array, y: jax.Array, convolution: Convolution, devices: int = 1
) -> jax.Array:
    """``x`` ``(B, *image, G*C)``."""
    wide, merged = _merge(convolution, filters.shape, devices)
    return lax_convolution.input_gradient(spread(filters, convolution.groups, merged), y, wide)


def filter_gradient(
    x: jax.Array, y: jax.Array, convolution: Convolution, devices: int = 1
) -> jax.Array:
    """Filters ``(*filter, C, G*F)``: the diagonal blocks of the merged filters' gradient."""
    shape = convolution.shape(Role.FILTER_GRADIENT, x.shape, y.shape)
    wide, merged = _merge(convolution, shape, devices)
    return diagonal(lax_convolution.filter_gradient(x, y, wide), convolution.groups, merged)


def _merge(
    convolution: Convolution, filters: tuple[int, ...], devices: int
) -> tuple[Convolution, int]:
    """Returns the convolution of fewer groups, and the number of groups merged into each."""
    groups = convolution.groups
    merged = count(convolution, filters[-2], filters[-1] // groups, devices)
    return dataclasses.replace(convolution, groups=groups // merged), merged


def spread(filters: jax.Array, groups: int, merged: int) -> jax.Array:
    """Converts ``(*filter, C, G*F)`` to ``(*filter, n*C, G*F)``, zero between different groups."""
    same_group = _same_group(filters.shape[-2] * merged, filters.shape[-1], groups, merged)
    copies = jnp.concatenate([filters] * merged, -2)
    return jnp.where(same_group, copies, jnp.zeros((), filters.dtype))


def diagonal(filters: jax.Array, groups: int, merged: int) -> jax.Array:
    """The transpose of :func:`spread`: ``(*filter, n*C, G*F)`` to ``(*filter, C, G*F)``."""
    same_group = _same_group(filters.shape[-2], filters.shape[-1], groups, merged)
    masked = jnp.where(same_group, filters, jnp.zeros((), filters.dtype))
    return functools.reduce(operator.add, jnp.split(masked, merged, -2))


def _same_group(rows: int, columns: int, groups: int, merged: int) -> jax.Array:
    """Whether a channel of a block and a filter belong to the same group, ``(n*C, G*F)``."""
    row, column = jnp.arange(rows)[:, None], jnp.arange(columns)[None, :]
    return row // (rows // merged) == column // (columns // groups) % merged
