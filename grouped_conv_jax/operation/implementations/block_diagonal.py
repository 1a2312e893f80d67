"""Merges neighbouring groups into block-diagonal dense convolutions, for CPUs.

A dense convolution of a few dozen channels runs at the speed of a matrix product, and multiplying
the zeros off the diagonal costs less than one narrow convolution per group. XLA:CPU is slow at
grouped convolutions, so each block is a separate dense convolution.
"""

import dataclasses
import functools
import math
from types import ModuleType

import jax
import jax.numpy as jnp

from grouped_conv_jax.operation._description import Convolution, Role
from grouped_conv_jax.operation.implementations import (
    lane_tiles,
    lax_convolution,
    pointwise,
    polyphase,
)

# Narrower products leave vector units idle; wider ones multiply more zeros.
_BLOCK_CHANNELS = 16
# Every block adds an operation to the program.
_MOST_BLOCKS = 16


def unsupported(role: Role, convolution: Convolution, channels: int, filters: int) -> str | None:
    """Why this implementation cannot compute ``role``, or ``None``."""
    del role, convolution, channels, filters
    return None


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """``y`` ``(B, *outputs, G*F)``."""
    dense, merged = _merge(convolution, filters.shape)
    blocks = _block_diagonal(filters, convolution.groups, merged)
    images = _split(x, convolution.groups, merged)
    function = _module(dense).forward
    return jnp.concatenate(
        [function(*block, dense) for block in zip(images, blocks, strict=True)], -1
    )


def input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """``x`` ``(B, *image, G*C)``."""
    dense, merged = _merge(convolution, filters.shape)
    blocks = _block_diagonal(filters, convolution.groups, merged)
    cotangents = _split(y, convolution.groups, merged)
    function = _module(dense).input_gradient
    if max(dense.strides) > 1 and not pointwise.suits(dense):
        function = functools.partial(polyphase.input_gradient, forward=lax_convolution.forward)
    return jnp.concatenate(
        [function(*block, dense) for block in zip(blocks, cotangents, strict=True)], -1
    )


def filter_gradient(x: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """Filters ``(*filter, C, G*F)``: the dense gradient's diagonal blocks."""
    groups = convolution.groups
    dense, merged = _merge(convolution, convolution.shape(Role.FILTER_GRADIENT, x.shape, y.shape))
    images, cotangents = (_split(array, groups, merged) for array in (x, y))
    function = _module(dense).filter_gradient
    return jnp.concatenate(
        [
            lane_tiles.diagonal(function(*block, dense), n, n)
            for *block, n in zip(images, cotangents, _counts(groups, merged), strict=True)
        ],
        -1,
    )


def _module(dense: Convolution) -> ModuleType:
    return pointwise if pointwise.suits(dense) else lax_convolution


def _merge(convolution: Convolution, filters: tuple[int, ...]) -> tuple[Convolution, int]:
    """Returns the dense convolution of one block, and the number of groups that it merges."""
    groups = convolution.groups
    narrower = min(filters[-2], filters[-1] // groups)
    merged = max(math.ceil(_BLOCK_CHANNELS / narrower), math.ceil(groups / _MOST_BLOCKS))
    return dataclasses.replace(convolution, groups=1), min(merged, groups)


def _split(array: jax.Array, groups: int, merged: int) -> list[jax.Array]:
    """Splits ``(..., G*N)`` into blocks of ``merged`` groups; the last block may be smaller."""
    width = array.shape[-1] // groups * merged
    return jnp.split(array, list(range(width, array.shape[-1], width)), -1)


def _counts(groups: int, merged: int) -> list[int]:
    """The number of groups in each block."""
    return [min(merged, groups - first) for first in range(0, groups, merged)]


def _block_diagonal(filters: jax.Array, groups: int, merged: int) -> list[jax.Array]:
    """Converts ``(*filter, C, G*F)`` to dense filters ``(*filter, n*C, n*F)`` per ``n`` groups."""
    blocks, counts = _split(filters, groups, merged), _counts(groups, merged)
    return [lane_tiles.spread(block, n, n) for block, n in zip(blocks, counts, strict=True)]
