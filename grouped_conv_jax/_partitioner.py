"""Computes shards where they are: a plan, as the compiler's partitioner takes it.

Shardy, which decides how arrays are sharded, is told which axes of operands and result belong
together; and what it decided is read back as partitions over a mesh.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from grouped_conv_jax import _jax_internals, _sharding
from grouped_conv_jax._convolution import Role, accumulator
from grouped_conv_jax._sharding import Signature


def partitioned(
    compute: "functools.partial[jax.Array]", devices: int
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Computes on each of the devices the shard of the result that a plan gives it.

    Args:
        compute: :func:`grouped_conv_jax._execution.compute` with all of its keywords.
        devices: their number.
    """
    role, convolution, dtype = (compute.keywords[name] for name in ("role", "convolution", "dtype"))

    def signature(*arrays: Any) -> Signature:
        return Signature(role, convolution, tuple(tuple(array.shape) for array in arrays))

    def plan(*arrays: Any) -> tuple[_sharding.Plan, list[NamedSharding]]:
        tilings = [_jax_internals.tiling(array) for array in arrays]
        mesh, specs = common_mesh(tilings, devices)
        plan = _sharding.plan(signature(*arrays), specs, mesh.shape)
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
    *_, channels, outputs = shapes[Role.FILTER_GRADIENT]
    sizes = {
        "groups": convolution.groups,
        "channels": channels,
        "filters": outputs // convolution.groups,
    }
    alike = set()
    for i, stride in enumerate(convolution.strides):
        sizes[f"step{i}"] = stride
        if convolution.outputs[i] * stride == convolution.image[i]:
            alike.add(f"space{i}")

    def factors(role: Role, axis: int, name: str | None) -> list[str]:
        if name == "groups":
            minor = "channels" if role == Role.INPUT_GRADIENT else "filters"
            return [name, minor][: 1 + (sizes[minor] > 1)]
        if name is None:
            return ["channels" if axis == -2 else f"tap{-axis}"]
        if role == Role.INPUT_GRADIENT and name.startswith("space"):
            if name not in alike:
                return [f"image{name[5:]}"]
            step = f"step{name[5:]}"
            return [name, step][: 1 + (sizes[step] > 1)]
        return [name]

    mappings = [
        [factors(role, i - len(names), name) for i, name in enumerate(names)]
        for role, names in zip(signature.roles, signature.names, strict=True)
    ]
    axes = list(itertools.chain.from_iterable(mappings))
    # Shardy wants them in the order in which they come.
    order = dict.fromkeys(itertools.chain.from_iterable(axes))
    whole = {axis[0] for axis in axes if len(axis) == 1}
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


def common_mesh(
    tilings: Sequence[np.ndarray | None], devices: int
) -> tuple[AbstractMesh, list[PartitionSpec]]:
    """A mesh over which all arrays are partitioned, and how.

    The compiler tells which device has which tile of an array, but not the mesh behind it. Every
    mesh is one of prime sizes in which axes are joined.

    Args:
        tilings: for each array, which tile along each of its axes each device has,
            ``(axes, devices)``; ``None`` for an array that is not tiled.
        devices: their number.
    """
    best = -1
    for sizes in _orders(_prime_factors(devices)):
        names = tuple(f"mesh{i}" for i in range(len(sizes)))
        digits = np.array(np.unravel_index(np.arange(devices), sizes))
        found = [() if tiling is None else _partition(tiling, digits) for tiling in tilings]
        fitting = sum(one is not None for one in found)
        if fitting > best:
            best, mesh = fitting, AbstractMesh(sizes, names)
            specs = [
                PartitionSpec(*(tuple(names[i] for i in axes) for axes in one or ()))
                for one in found
            ]
    return mesh, specs


def _partition(tiling: np.ndarray, digits: np.ndarray) -> list[tuple[int, ...]] | None:
    """For each axis of an array, which digits of a device's number make up its tile's."""
    # The device all of whose digits are zero but one.
    units = [int(np.flatnonzero((digit == 1) & (digits.sum(0) == 1))[0]) for digit in digits]
    partition = []
    for tiles in tiling:
        steps = tiles[units]
        if not np.array_equal(steps @ digits, tiles):
            return None
        used = sorted(np.flatnonzero(steps), key=lambda i: -steps[i])
        partition.append(tuple(map(int, used)))
    return partition


def _orders(factors: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The different orders of some numbers."""
    if not factors:
        yield ()
    for first in sorted(set(factors)):
        at = factors.index(first)
        for others in _orders(factors[:at] + factors[at + 1 :]):
            yield (first, *others)


def _prime_factors(number: int) -> tuple[int, ...]:
    smallest = next((i for i in range(2, number + 1) if number % i == 0), None)
    return () if smallest is None else (smallest, *_prime_factors(number // smallest))
