"""Every undocumented interface of JAX that this package uses.

- ``jax.interpreters.mlir``: ``register_lowering`` and ``lower_fun``; the tables ``_lowerings`` and
  ``_platform_specific_lowerings``, to chain a rule in front of JAX's own; and the context of a
  lowering rule (``jaxpr_eqn_ctx``, ``platforms``, ``module_context`` with its ``axis_context`` and
  ``lowering_parameters``).
- ``JaxprEqn.ctx.xla_metadata``, which holds the marks of ``jax.experimental.xla_metadata``.
- ``jax.extend.core.Primitive``, for the computation of one shard.
- ``_to_xla_hlo_sharding``, which converts a sharding to the compiler's form.

Tested with JAX 0.10.0, 0.10.2 and 0.12.0.1; ``tests/test_jax_interfaces.py`` fails when one of them
changes. If the rule tables are missing, JAX's own rule computes every convolution.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core
import jax.extend.source_info_util
import numpy as np
from jax.core import ShapedArray
from jax.extend.core.primitives import conv_general_dilated_p
from jax.interpreters import mlir
from jax.sharding import AbstractMesh

LoweringRule = Callable[..., Any]


def chain_in_front_of_convolutions(rule: Callable[..., Any]) -> bool:
    """Wraps each of JAX's lowering rules for ``conv_general_dilated``.

    Args:
        rule: a lowering rule that takes JAX's own rule as an additional first argument.

    Returns:
        Whether the rule is installed. If this version of JAX has no such tables, nothing changes.
    """
    try:
        tables: list[tuple[str | None, Any]] = [(None, mlir._lowerings)]
        tables += mlir._platform_specific_lowerings.items()
        own = [
            (platform, table[conv_general_dilated_p].rule)
            for platform, table in tables
            if conv_general_dilated_p in table
        ]
        for platform, original in own:
            _chain(rule, original, platform)
    except (AttributeError, TypeError, KeyError, IndexError) as error:
        warnings.warn(
            f"JAX {jax.__version__} has no lowering rules that grouped_conv_jax knows how to "
            f"extend ({error!r}): every convolution is computed by jax.lax, which is slower",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return bool(own)


def _chain(rule: Callable[..., Any], original: LoweringRule, platform: str | None) -> None:
    def chained(ctx: Any, *operands: Any, **parameters: Any) -> Any:
        return rule(original, ctx, *operands, **parameters)

    mlir.register_lowering(conv_general_dilated_p, chained, platform=platform)


def metadata(context: Any) -> dict[str, Any]:
    """The XLA metadata of an equation, given its ``ctx`` or the context of its lowering rule."""
    equation = getattr(context, "jaxpr_eqn_ctx", context)
    return getattr(equation, "xla_metadata", None) or {}


def platforms(ctx: Any) -> tuple[str, ...]:
    """The platforms that a lowering rule lowers for."""
    return tuple(ctx.platforms or ctx.module_context.platforms)


def devices_to_partition_over(ctx: Any) -> int:
    """The number of devices that the compiler partitions the program over; 1 within a shard."""
    return getattr(ctx.module_context.axis_context, "num_devices", 1)


def is_for_export(ctx: Any) -> bool:
    """Whether the program is lowered for ``jax.export``."""
    return bool(ctx.module_context.lowering_parameters.for_export)


def with_any_devices(ctx: Any) -> Any:
    """Returns a lowering rule's context with a device assignment.

    Custom partitioning requires one, but uses only the number of devices.
    """
    module = ctx.module_context
    axis_context = dataclasses.replace(
        module.axis_context,
        device_assignment=(jax.local_devices()[0],) * devices_to_partition_over(ctx),
    )
    return ctx.replace(module_context=module.replace(axis_context=axis_context))


def lower_plainly(compute: Callable[..., jax.Array], ctx: Any, *operands: Any) -> Any:
    """Lowers a computation outside of any mesh, hiding explicit axes and those of ``shard_map``."""
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
        plain = tuple(ShapedArray(aval.shape, aval.dtype) for aval in ctx.avals_in)
        rule = mlir.lower_fun(compute, multiple_results=False)
        return rule(ctx.replace(avals_in=plain), *operands)


# A shard has none of the explicit axes of the surrounding program, so its computation is traced
# only when it is lowered.
_shard = jax.extend.core.Primitive("grouped_convolution_shard")


@_shard.def_abstract_eval
def _abstract_shard(*operands: ShapedArray, compute: Any, shape: Any, dtype: Any) -> ShapedArray:
    del operands, compute
    return ShapedArray(shape, dtype)


def _lower_shard(ctx: Any, *operands: Any, compute: Any, shape: Any, dtype: Any) -> Any:
    del shape, dtype
    return lower_plainly(compute, ctx, *operands)


mlir.register_lowering(_shard, _lower_shard)


def compute_shard(
    *operands: jax.Array, compute: Callable[..., jax.Array], shape: tuple[int, ...], dtype: Any
) -> jax.Array:
    """Binds ``compute`` to its operands; it is traced only when lowered.

    Args:
        *operands: the shards of the operands.
        compute: the computation of one shard.
        shape: the shape of its result.
        dtype: the dtype of its result.
    """
    return _shard.bind(*operands, compute=compute, shape=shape, dtype=dtype)


def tiling(array: Any) -> np.ndarray | None:
    """The index of each device's tile along each axis, ``(axes, devices)``.

    ``None`` if the array is not tiled, so that every device holds all of it.
    """
    if getattr(array, "sharding", None) is None:
        return None
    sharding = array.sharding._to_xla_hlo_sharding(len(array.shape))
    if not sharding.is_tiled() or sharding.subgroup_types():
        return None
    places = np.argsort(sharding.tile_assignment_devices())
    tiles = np.unravel_index(places, sharding.tile_assignment_dimensions())
    return np.array(tiles[: len(array.shape)])


def convolutions(jaxpr: Any) -> Iterator[Any]:
    """Yields every ``conv_general_dilated`` equation of a jaxpr, including nested ones."""
    for equation in jaxpr.eqns:
        if equation.primitive is conv_general_dilated_p:
            yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from convolutions(inner)


def where(equation: Any) -> str:
    """The source line of the user's program that an equation comes from."""
    return jax.extend.source_info_util.summarize(equation.source_info)
