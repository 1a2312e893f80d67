"""Computes shards where they are: a plan, as the compiler's partitioner takes it.

Shardy, which decides how arrays are sharded, is told which axes of operands and result belong
together; and what it decided is read back as partitions over a mesh.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import NamedSharding

from grouped_conv_jax.operation import _jax_internals
from grouped_conv_jax.operation._description import Role, accumulator
from grouped_conv_jax.operation.sharding import _plan
from grouped_conv_jax.operation.sharding._axes import Axis, Independent, Signature
from grouped_conv_jax.operation.sharding._mesh import common_mesh


def partitioned(
    compute: "functools.partial[jax.Array]", devices: int
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Computes on each of the devices the shard of the result that a plan gives it.

    Args:
        compute: :func:`grouped_conv_jax.operation._execution.compute` with all of its keywords.
        devices: their number.
    """
    role, convolution, dtype = (compute.keywords[name] for name in ("role", "convolution", "dtype"))

    def signature(*arrays: Any) -> Signature:
        return Signature(role, convolution, tuple(tuple(array.shape) for array in arrays))

    def plan(*arrays: Any) -> tuple[_plan.Plan, list[NamedSharding]]:
        tilings = [_jax_internals.tiling(array) for array in arrays]
        mesh, specs = common_mesh(tilings, devices)
        plan = _plan.plan(signature(*arrays), specs, mesh.shape)
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
            shard = functools.partial(compute, dtype=wide)
            return split.compute(shard, lhs, rhs).astype(dtype)

        shard = functools.partial(
            _jax_internals.compute_shard, compute=local, shape=split.shard, dtype=dtype
        )
        return sharding.mesh, shard, sharding, tuple(operand_shardings)

    def rule(mesh: Any, operands: Any, results: Any) -> Any:
        del mesh
        return sharding_rule(signature(*operands, *results))

    call = custom_partitioning(lambda lhs, rhs: compute(lhs, rhs))
    call.def_partition(partition, infer, decode_shardings=False, sharding_rule=rule)

    def described(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        # The program's text is a key of JAX's caches, and holds nothing of what a custom
        # partitioning computes but a pointer, which may be taken out of the key.
        with set_xla_metadata(grouped_conv_jax_shards=repr(compute.keywords)):
            return call(lhs, rhs)

    return described


def sharding_rule(signature: Signature) -> tuple[str, dict[str, Any]]:
    """The rule by which Shardy propagates shardings, and its arguments.

    An axis is one factor or a product of two: channels are groups times what is in one of them,
    and the rows of ``x`` are those of ``y`` times the stride where shards can be alike.
    """
    convolution = signature.convolution
    shapes = dict(zip(signature.roles, signature.shapes, strict=True))
    groups, (*_, channels, outputs) = convolution.groups, shapes[Role.FILTER_GRADIENT]
    sizes = {"groups": groups, "channels": channels, "filters": outputs // groups}
    sizes |= {f"step{i}": stride for i, stride in enumerate(convolution.strides)}
    alike = {
        f"space{i}"
        for i, stride in enumerate(convolution.strides)
        if convolution.outputs[i] * stride == convolution.image[i]
    }

    def factors(role: Role, axis: Axis | None, last: int) -> list[str]:
        if axis is None:
            return ["channels" if last == -2 else f"tap{-last}"]
        if axis is Independent.BATCH:
            return ["batch"]
        if axis is Independent.GROUPS:
            minor = "channels" if role == Role.INPUT_GRADIENT else "filters"
            return ["groups", minor][: 1 + (sizes[minor] > 1)]
        space, step = f"space{axis.index}", f"step{axis.index}"
        if role != Role.INPUT_GRADIENT:
            return [space]
        if space not in alike:
            return [f"image{axis.index}"]
        return [space, step][: 1 + (sizes[step] > 1)]

    mappings = [
        [factors(role, axis, i - len(axes)) for i, axis in enumerate(axes)]
        for role, axes in zip(signature.roles, signature.axes, strict=True)
    ]
    every = list(itertools.chain.from_iterable(mappings))
    # Shardy wants them in the order in which they come.
    order = dict.fromkeys(itertools.chain.from_iterable(every))
    whole = {axis[0] for axis in every if len(axis) == 1}
    split = alike | {"groups", "batch"}
    kept = [one for one in order if one not in split]
    written = [
        " ".join(axis[0] if len(axis) == 1 else f"({' '.join(axis)})" for axis in mapping)
        for mapping in mappings
    ]
    return f"{written[0]}, {written[1]} -> {written[2]}", {
        "need_replication_factors": tuple(kept),
        **{one: sizes[one] for one in order if one not in whole},
    }
