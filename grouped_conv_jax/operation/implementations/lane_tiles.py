"""Neighbouring groups merged up to the width of a lane tile, in one convolution of fewer groups.

A TPU multiplies tiles of 128 channels, and a GPU's library has no fast path for narrow groups. The
filters of ``n`` groups are copied ``n`` times along their channel axis and masked, which makes them
block-diagonal without moving a channel to another lane. The zeros cost nothing where the tile was
idle; they do spread a NaN or an infinity of a pixel to the other groups of its block.
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
# 1x1 filters of all groups, as one matrix product.
_WIDEST_PRODUCT = 256


def count(convolution: Convolution, channels: int, filters: int, devices: int = 1) -> int:
    """How many neighbouring groups are merged: as many as a lane tile holds, or all.

    The number divides that of the groups. Groups that devices may share evenly are not merged
    across them.
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
    """Filters ``(*filter, C, G*F)``: the diagonal blocks of the wide filters' gradient."""
    shape = convolution.shape(Role.FILTER_GRADIENT, x.shape, y.shape)
    wide, merged = _merge(convolution, shape, devices)
    return diagonal(lax_convolution.filter_gradient(x, y, wide), convolution.groups, merged)


def _merge(
    convolution: Convolution, filters: tuple[int, ...], devices: int
) -> tuple[Convolution, int]:
    """The convolution of fewer groups, and how many each of them merges."""
    groups = convolution.groups
    merged = count(convolution, filters[-2], filters[-1] // groups, devices)
    return dataclasses.replace(convolution, groups=groups // merged), merged


def spread(filters: jax.Array, groups: int, merged: int) -> jax.Array:
    """``(*filter, C, G*F)`` to ``(*filter, n*C, G*F)``, zero where a group meets another."""
    own = _own(filters.shape[-2] * merged, filters.shape[-1], groups, merged)
    copies = jnp.concatenate([filters] * merged, -2)
    return jnp.where(own, copies, jnp.zeros((), filters.dtype))


def diagonal(filters: jax.Array, groups: int, merged: int) -> jax.Array:
    """The transpose of :func:`spread`: ``(*filter, n*C, G*F)`` to ``(*filter, C, G*F)``."""
    own = _own(filters.shape[-2], filters.shape[-1], groups, merged)
    kept = jnp.where(own, filters, jnp.zeros((), filters.dtype))
    return functools.reduce(operator.add, jnp.split(kept, merged, -2))


def _own(rows: int, columns: int, groups: int, merged: int) -> jax.Array:
    """Whether a channel of a block and a filter are of the same group, ``(n*C, G*F)``."""
    row, column = jnp.arange(rows)[:, None], jnp.arange(columns)[None, :]
    return row // (rows // merged) == column // (columns // groups) % merged
