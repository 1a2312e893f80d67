"""Convolutions over the explicit axes of a mesh, where shardings are part of the types."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding

from grouped_conv_jax.operation._description import Convolution, Role
from grouped_conv_jax.operation.sharding._axes import Signature
from grouped_conv_jax.operation.sharding._plan import plan


def is_on_explicit_axes(*operands: Any) -> bool:
    """Whether an operand is an array on a mesh with explicit axes."""
    return any(
        isinstance(operand, jax.Array) and bool(jax.typeof(operand).sharding.mesh.explicit_axes)
        for operand in operands
    )


def as_planned(
    compute: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    filters: jax.Array,
    convolution: Convolution,
) -> jax.Array:
    """Computes a grouped forward pass over explicit axes, for which lax has no sharding rule.

    Args:
        compute: the forward pass.
        x: the input, in canonical order.
        filters: the filters, in canonical order.
        convolution: the static description.

    Raises:
        ValueError: the result cannot be computed with the operands sharded as they are.
    """
    shardings = [jax.typeof(array).sharding for array in (x, filters)]
    specs = [sharding.spec for sharding in shardings]
    # An array that was never placed on the mesh has an empty one.
    mesh = next(sharding.mesh for sharding in shardings if not sharding.mesh.empty)
    shapes = x.shape, filters.shape, convolution.shape(Role.FORWARD, x.shape, filters.shape)
    chosen = plan(Signature(Role.FORWARD, convolution, shapes), specs, mesh.shape)
    chosen.check(specs)
    return jax.sharding.auto_axes(compute, out_sharding=NamedSharding(mesh, chosen.specs[-1]))(
        x, filters
    )
