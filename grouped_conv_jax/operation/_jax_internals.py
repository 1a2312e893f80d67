"""Everything this package uses of JAX below its documented interface, in one place.

- ``jax.interpreters.mlir``: ``register_lowering`` and ``lower_fun``; the tables
  ``_lowerings`` and ``_platform_specific_lowerings``, to chain a rule in front of JAX's own; and
  what a rule is told of the program (``jaxpr_eqn_ctx``, ``platforms``, ``module_context`` with its
  ``axis_context`` and ``lowering_parameters``).
- ``JaxprEqn.ctx.xla_metadata``, where ``jax.experimental.xla_metadata`` leaves its marks.
- ``jax.extend.core.Primitive``, for the computation of one shard.
- The compiler's form of a sharding (``_to_xla_hlo_sharding``).

Tried with JAX 0.10.0, 0.10.2 and 0.12.0.1; ``tests/test_jax_interfaces.py`` fails loudly when one
of them changes. Without the rule tables every convolution is still computed, by JAX's own rule.
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
    """Puts a lowering rule in front of each that JAX has for ``conv_general_dilated``.

    Args:
        rule: takes JAX's own rule first, then what that takes.

    Returns:
        Whether it is in place. If this version of JAX has no such tables, nothing changes.
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
    """The XLA metadata of an equation, from its ``ctx`` or from what a lowering rule is given."""
    equation = getattr(context, "jaxpr_eqn_ctx", context)
    return getattr(equation, "xla_metadata", None) or {}


def platforms(ctx: Any) -> tuple[str, ...]:
    """The platforms that a lowering rule is to lower for."""
    return tuple(ctx.platforms or ctx.module_context.platforms)


def devices_to_partition_over(ctx: Any) -> int:
    """Over how many devices the compiler will partition what is lowered; 1 for shards."""
    return getattr(ctx.module_context.axis_context, "num_devices", 1)


def is_for_export(ctx: Any) -> bool:
    """Whether the program leaves this process."""
    return bool(ctx.module_context.lowering_parameters.for_export)


def with_any_devices(ctx: Any) -> Any:
    """A lowering rule's context in which devices have been chosen.

    Custom partitioning asks for them, but only their number matters.
    """
    module = ctx.module_context
    axis_context = dataclasses.replace(
        module.axis_context,
        device_assignment=(jax.local_devices()[0],) * devices_to_partition_over(ctx),
    )
    return ctx.replace(module_context=module.replace(axis_context=axis_context))


def lower_plainly(compute: Callable[..., jax.Array], ctx: Any, *operands: Any) -> Any:
    """Lowers what need not know of any mesh: neither explicit axes nor those of ``shard_map``."""
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
        plain = tuple(ShapedArray(aval.shape, aval.dtype) for aval in ctx.avals_in)
        rule = mlir.lower_fun(compute, multiple_results=False)
        return rule(ctx.replace(avals_in=plain), *operands)


# Within a shard, axes that are explicit in the program around it mean nothing; so what a shard
# computes is traced only when it is lowered.
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
    """What ``compute`` makes of operands, of the given shape and dtype; traced when lowered."""
    return _shard.bind(*operands, compute=compute, shape=shape, dtype=dtype)


def tiling(array: Any) -> np.ndarray | None:
    """Which tile along each axis of an array each device has; ``None`` where all have all of it."""
    if getattr(array, "sharding", None) is None:
        return None
    sharding = array.sharding._to_xla_hlo_sharding(len(array.shape))
    if not sharding.is_tiled() or sharding.subgroup_types():
        return None
    places = np.argsort(sharding.tile_assignment_devices())
    tiles = np.unravel_index(places, sharding.tile_assignment_dimensions())
    return np.array(tiles[: len(array.shape)])


def convolutions(jaxpr: Any) -> Iterator[Any]:
    """Every ``conv_general_dilated`` equation of a jaxpr, those within other equations too."""
    for equation in jaxpr.eqns:
        if equation.primitive is conv_general_dilated_p:
            yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from convolutions(inner)


def where(equation: Any) -> str:
    """The line of the user's program that an equation comes from."""
    return jax.extend.source_info_util.summarize(equation.source_info)
