"""Grouped convolution as one bilinear JAX primitive with three roles.

A primitive of our own keeps every transformation on the fast path: each derivative is the same
primitive in another role, batching is written once, and the implementation is chosen when the
program is lowered, for the platform it is lowered for.

Over several devices each computes the shard that :mod:`grouped_conv_jax._sharding` plans for it,
wherever the compiler partitions: with automatic and with explicit axes of a mesh. Where nothing is
partitioned any more, or cannot be by this process, the primitive is lowered as on one device:
under ``shard_map``, and in exported programs.

This is the one module that uses JAX below its documented interface: ``jax.extend.core.Primitive``
and the registration functions of ``jax.interpreters`` (``ad.defbilinear``,
``batching.primitive_batchers``, ``mlir.register_lowering`` and ``mlir.lower_fun``), what a lowering
rule is told of the program (``axis_context``, ``lowering_parameters``), the type of an array on a
mesh (``manual_axis_type``, ``sharding``) and the compiler's form of a sharding
(``_to_xla_hlo_sharding``). Tried with JAX 0.10.0, 0.10.2 and 0.12.0;
``tests/test_jax_interfaces.py`` fails loudly when one of them changes.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.experimental.custom_partitioning import custom_partitioning
from jax.interpreters import ad, batching, mlir
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from grouped_conv_jax import _choice, _execution, _partitioner, _sharding
from grouped_conv_jax._convolution import Convolution, Role, Stacks, accumulator

primitive = jax.extend.core.Primitive("grouped_convolution")


def bind(
    role: Role,
    lhs: jax.Array,
    rhs: jax.Array,
    convolution: Convolution,
    *,
    dtype: DTypeLike,
    implementation: str | None = None,
    stacks: Stacks = (),
) -> jax.Array:
    """Computes ``role`` from its two operands, which are in the order of ``role.operands``.

    Args:
        role: what to compute.
        lhs: the first operand, in canonical order, after its stacked axes.
        rhs: the second operand, likewise.
        convolution: the static description.
        dtype: of the result.
        implementation: the name of one, or ``None`` for the choice of the platform.
        stacks: see :data:`Stacks`; the result has an axis for each.
    """
    return primitive.bind(
        *_vary_alike(lhs, rhs),
        role=role,
        convolution=convolution,
        dtype=jnp.dtype(dtype),
        implementation=implementation,
        stacks=stacks,
    )


def _vary_alike(*operands: jax.Array) -> list[jax.Array]:
    """Under ``shard_map``, makes all operands vary over each axis that one of them varies over."""
    varying = [jax.typeof(operand).manual_axis_type.varying for operand in operands]
    missing = [tuple(sorted(frozenset().union(*varying) - own)) for own in varying]
    return [
        jax.lax.pcast(operand, axes, to="varying") if axes else operand
        for operand, axes in zip(operands, missing, strict=True)
    ]


@functools.partial(
    jax.jit, static_argnames=("role", "convolution", "dtype", "implementation", "stacks")
)
def _evaluate(lhs: jax.Array, rhs: jax.Array, **parameters: Any) -> jax.Array:
    return primitive.bind(lhs, rhs, **parameters)


@primitive.def_impl
def _implementation(lhs: jax.Array, rhs: jax.Array, **parameters: Any) -> jax.Array:
    # Without compilation the primitive would evaluate itself for ever.
    with jax.disable_jit(False):
        return _evaluate(lhs, rhs, **parameters)


@primitive.def_abstract_eval
def _abstract_eval(
    lhs: ShapedArray,
    rhs: ShapedArray,
    *,
    role: Role,
    convolution: Convolution,
    dtype: Any,
    implementation: str | None,
    stacks: Stacks,
) -> ShapedArray:
    sizes, shapes = _execution.unstack(stacks, lhs.shape, rhs.shape)
    if implementation is not None:
        # Says while tracing why it cannot.
        _execution.choose(role, convolution, shapes, "any", implementation)
    result = (*sizes, *convolution.shape(role, *shapes))
    signature = _sharding.Signature(role, convolution, stacks, (lhs.shape, rhs.shape, result))
    return lhs.update(
        shape=result, dtype=dtype, weak_type=False, sharding=_result_sharding(signature, lhs, rhs)
    )


def _result_sharding(signature: _sharding.Signature, *operands: ShapedArray) -> NamedSharding:
    """The sharding in the type of the result, for a mesh with explicit axes."""
    shardings = [operand.sharding for operand in operands]
    # An array that was never placed has an empty mesh.
    given = next((one for one in shardings if not one.mesh.empty), shardings[0])
    if not any(any(sharding.spec) for sharding in shardings):
        return given.update(spec=PartitionSpec())
    specs = [sharding.spec for sharding in shardings]
    plan = _sharding.plan(signature, specs, given.mesh.shape)
    plan.check(specs)
    return given.update(spec=plan.specs[-1])


def _transpose_rule(position: int) -> Any:
    """The transpose in the operand at ``position``: the role that computes that operand."""

    def rule(
        cotangent: jax.Array,
        lhs: Any,
        rhs: Any,
        *,
        role: Role,
        stacks: Stacks,
        **parameters: Any,
    ) -> jax.Array:
        wanted, other_role = role.operands[position], role.operands[1 - position]
        linear, other = (lhs, rhs) if position == 0 else (rhs, lhs)
        values = {other_role: other, role: cotangent}
        flags = {other_role: [level[1 - position] for level in stacks], role: [True] * len(stacks)}
        first, second = wanted.operands
        result = bind(
            wanted,
            values[first],
            values[second],
            stacks=tuple(zip(flags[first], flags[second], strict=True)),
            **(parameters | {"dtype": linear.aval.dtype}),
        )
        # An operand that all members of a stack share collects the cotangents of all of them.
        shared = tuple(i for i, level in enumerate(stacks) if not level[position])
        return _shard_as(linear.aval, jnp.sum(result, shared) if shared else result)

    return rule


def _shard_as(aval: ShapedArray, cotangent: jax.Array) -> jax.Array:
    """Gives a cotangent the explicit sharding of its primal, from which it may have strayed."""
    spec = aval.sharding.spec
    if tuple(jax.typeof(cotangent).sharding.spec) == tuple(spec):
        return cotangent
    return jax.sharding.reshard(cotangent, spec)


ad.defbilinear(primitive, _transpose_rule(0), _transpose_rule(1))


def _batch(
    operands: Sequence[jax.Array],
    dims: Sequence[int | None],
    *,
    role: Role,
    stacks: Stacks,
    **parameters: Any,
) -> tuple[jax.Array, int]:
    """Stacks a mapped axis; an axis of its own may be sharded on its own."""
    lhs, rhs = (
        operand if dim is None else jnp.moveaxis(operand, dim, 0)
        for operand, dim in zip(operands, dims, strict=True)
    )
    level = (dims[0] is not None, dims[1] is not None)
    return bind(role, lhs, rhs, stacks=(level, *stacks), **parameters), 0


batching.primitive_batchers[primitive] = _batch


def _lowering(platform: str) -> Any:
    compute = functools.partial(_execution.compute, platform=platform)

    def lower(ctx: Any, *operands: Any, **parameters: Any) -> Any:
        module = ctx.module_context
        # Elsewhere the operands are whole, or shards already.
        devices = getattr(module.axis_context, "num_devices", 1)
        # An exported program cannot call back into this process when it is partitioned.
        if devices == 1 or module.lowering_parameters.for_export:
            return _lower_plainly(functools.partial(compute, **parameters), ctx, *operands)
        if parameters["convolution"].groups == 1:
            # Plain JAX without groups the compiler partitions itself, a convolution best.
            name = parameters["implementation"] or "lax"
            dense = functools.partial(compute, **(parameters | {"implementation": name}))
            return _lower_plainly(dense, ctx, *operands)
        # Only their number matters: what is lowered here may run on any devices.
        context = dataclasses.replace(
            module.axis_context, device_assignment=(jax.local_devices()[0],) * devices
        )
        ctx = ctx.replace(module_context=module.replace(axis_context=context))
        return _lower_plainly(_partitioned(compute, devices, **parameters), ctx, *operands)

    return lower


def _lower_plainly(compute: Callable[..., jax.Array], ctx: Any, *operands: Any) -> Any:
    """Lowers what need not know of any mesh: neither explicit axes nor those of ``shard_map``."""
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
        plain = [ShapedArray(aval.shape, aval.dtype) for aval in ctx.avals_in]
        rule = mlir.lower_fun(compute, multiple_results=False)
        return rule(ctx.replace(avals_in=plain), *operands)


# Within a shard, axes that are explicit in the program around it mean nothing.
_shard = jax.extend.core.Primitive("grouped_convolution_shard")


@_shard.def_abstract_eval
def _abstract_shard(*operands: ShapedArray, compute: Any, shape: Any, dtype: Any) -> ShapedArray:
    del operands, compute
    return ShapedArray(shape, dtype)


def _lower_shard(ctx: Any, *operands: Any, compute: Any, shape: Any, dtype: Any) -> Any:
    del shape, dtype
    return _lower_plainly(compute, ctx, *operands)


mlir.register_lowering(_shard, _lower_shard)


def _partitioned(
    compute: Callable[..., jax.Array], devices: int, **parameters: Any
) -> custom_partitioning:
    """Computes on each of the devices the shard of the result that a plan gives it."""
    role, dtype = parameters["role"], parameters["dtype"]

    def whole(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return compute(lhs, rhs, **parameters)

    def signature(*shapes: Sequence[int]) -> _sharding.Signature:
        sizes = tuple(map(tuple, shapes))
        return _sharding.Signature(role, parameters["convolution"], parameters["stacks"], sizes)

    def plan(*arrays: Any) -> tuple[_sharding.Plan, list[NamedSharding]]:
        mesh, specs = _partitioner.common_mesh([_tiling(array) for array in arrays], devices)
        plan = _sharding.plan(signature(*(array.shape for array in arrays)), specs, mesh.shape)
        return plan, [NamedSharding(mesh, spec) for spec in plan.specs]

    def infer(mesh: Any, operands: Any, result: Any) -> NamedSharding:
        del mesh
        return plan(*operands, result)[1][-1]

    def partition(mesh: Any, operands: Any, result: Any) -> Any:
        del mesh
        split, (*operand_shardings, sharding) = plan(*operands, result)

        def local(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
            # Sums over devices, like all sums, are accumulated in at least 32 bits.
            wide = accumulator(lhs, rhs) if split.summed else dtype
            shard = functools.partial(compute, **(parameters | {"dtype": wide}))
            return split.compute(shard, lhs, rhs).astype(dtype)

        shard = functools.partial(_shard.bind, compute=local, shape=split.shard, dtype=dtype)
        return sharding.mesh, shard, sharding, tuple(operand_shardings)

    def rule(mesh: Any, operands: Any, results: Any) -> Any:
        del mesh
        return _partitioner.sharding_rule(signature(*(a.shape for a in (*operands, *results))))

    call = custom_partitioning(whole)
    call.def_partition(partition, infer, decode_shardings=False, sharding_rule=rule)
    return call


def _tiling(array: Any) -> np.ndarray | None:
    """Which tile along each axis of an array each device has; ``None`` where all have all of it."""
    if getattr(array, "sharding", None) is None:
        return None
    sharding = array.sharding._to_xla_hlo_sharding(len(array.shape))
    if not sharding.is_tiled() or sharding.subgroup_types():
        return None
    places = np.argsort(sharding.tile_assignment_devices())
    tiles = np.unravel_index(places, sharding.tile_assignment_dimensions())
    return np.array(tiles[: len(array.shape)])


for _platform in _choice.PLATFORMS:
    mlir.register_lowering(primitive, _lowering(_platform), platform=_platform)
# Platforms that nobody has measured: whatever XLA does there.
mlir.register_lowering(primitive, _lowering("other"))
