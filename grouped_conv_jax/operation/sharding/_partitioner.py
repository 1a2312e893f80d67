"""Applies a plan in the compiler's partitioner, so that each device computes its own shard.

:func:`sharding_rule` tells Shardy, which propagates shardings, how the axes of the operands and of
the result correspond. The shardings that Shardy decides on become partitions over a mesh.
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
from grouped_conv_jax.operation.sharding._axes import Axis, Independent, Signature
from grouped_conv_jax.operation.sharding._mesh import common_mesh
from grouped_conv_jax.operation.sharding._plan import Plan, plan


def partitioned(
    compute: "functools.partial[jax.Array]", devices: int
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns a function that computes on each device the device's shard of the result.

    Args:
        compute: :func:`grouped_conv_jax.operation._execution.compute` with all keywords bound.
        devices: the number of devices.
    """
    role, convolution, dtype = (compute.keywords[name] for name in ("role", "convolution", "dtype"))

    def signature(*arrays: Any) -> Signature:
        return Signature(role, convolution, tuple(tuple(array.shape) for array in arrays))

    def shardings(*arrays: Any) -> tuple[Plan, list[NamedSharding]]:
        tilings = [_jax_internals.tiling(array) for array in arrays]
        mesh, specs = common_mesh(tilings, devices)
        chosen = plan(signature(*arrays), specs, mesh.shape)
        return chosen, [NamedSharding(mesh, spec) for spec in chosen.specs]

    def infer(mesh: Any, operands: Any, result: Any) -> NamedSharding:
        del mesh
        return shardings(*operands, result)[1][-1]

    def partition(mesh: Any, operands: Any, result: Any) -> Any:
        del mesh
        chosen, (*operand_shardings, sharding) = shardings(*operands, result)

        def local(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
            # Sums over devices accumulate in at least 32 bits, like all other sums.
            wide = accumulator(lhs, rhs) if chosen.summed else dtype
            shard = functools.partial(compute, dtype=wide)
            return chosen.compute(shard, lhs, rhs).astype(dtype)

        shard = functools.partial(
            _jax_internals.compute_shard, compute=local, shape=chosen.shard, dtype=dtype
        )
        return sharding.mesh, shard, sharding, tuple(operand_shardings)

    def rule(mesh: Any, operands: Any, results: Any) -> Any:
        del mesh
        return sharding_rule(signature(*operands, *results))

    call = custom_partitioning(lambda lhs, rhs: compute(lhs, rhs))
    call.def_partition(partition, infer, decode_shardings=False, sharding_rule=rule)

    def call_with_key(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        # JAX's persistent cache is keyed by the program's text, where a custom partitioning is only
        # a pointer, which the key may omit. The metadata distinguishes the computations.
        with set_xla_metadata(grouped_conv_jax_shards=repr(compute.keywords)):
            return call(lhs, rhs)

    return call_with_key


def sharding_rule(signature: Signature) -> tuple[str, dict[str, Any]]:
    """Returns the rule by which Shardy propagates shardings, and the rule's arguments.

    Each axis is one factor or the product of two. The channels are groups times channels per group.
    If all shards of a spatial axis can be equal, the rows of ``x`` are the rows of ``y`` times the
    stride.
    """
    convolution = signature.convolution
    shapes = dict(zip(signature.roles, signature.shapes, strict=True))
    groups, (*_, channels, outputs) = convolution.groups, shapes[Role.FILTER_GRADIENT]
    sizes = {"groups": groups, "channels": channels, "filters": outputs // groups}
    sizes |= {f"step{i}": stride for i, stride in enumerate(convolution.strides)}
    splittable = {
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
        if space not in splittable:
            return [f"image{axis.index}"]
        return [space, step][: 1 + (sizes[step] > 1)]

    mappings = [
        [factors(role, axis, i - len(axes)) for i, axis in enumerate(axes)]
        for role, axes in zip(signature.roles, signature.axes, strict=True)
    ]
    axes = list(itertools.chain.from_iterable(mappings))
    # Shardy requires factors in the order of their first appearance.
    order = dict.fromkeys(itertools.chain.from_iterable(axes))
    # Shardy infers the size of a factor that is an axis by itself.
    inferred = {axis[0] for axis in axes if len(axis) == 1}
    replicated = [name for name in order if name not in splittable | {"groups", "batch"}]
    lhs, rhs, result = (
        " ".join(axis[0] if len(axis) == 1 else f"({' '.join(axis)})" for axis in mapping)
        for mapping in mappings
    )
    return f"{lhs}, {rhs} -> {result}", {
        "need_replication_factors": tuple(replicated),
        **{name: sizes[name] for name in order if name not in inferred},
    }
