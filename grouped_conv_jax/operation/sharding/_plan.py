"""How one bound convolution is split over the devices of a mesh, and what each of them computes.

Filters are split by groups alone, and channels are never cut inside of a group. What an operand's
sharding asks for beyond this, or what does not divide evenly, is not split.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from grouped_conv_jax.operation._description import Role
from grouped_conv_jax.operation.sharding._axes import (
    Axis,
    Independent,
    Signature,
    Space,
    Window,
    window,
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which axes of a mesh split what.

    Attributes:
        signature: what there is to split.
        splits: the axes of the mesh for each axis that is split, the major one first.
        sizes: of the axes of the mesh.
    """

    signature: Signature
    splits: Mapping[Axis, tuple[str, ...]]
    sizes: Mapping[str, int]

    @property
    def specs(self) -> list[PartitionSpec]:
        """For both operands and the result."""
        return [
            PartitionSpec(*(axis and self.splits.get(axis) for axis in axes))
            for axes in self.signature.axes
        ]

    def parts(self, axis: Axis) -> int:
        """The number of parts of an axis."""
        return math.prod(self.sizes[name] for name in self.splits.get(axis, ()))

    @property
    def shard(self) -> tuple[int, ...]:
        """The shape of a shard of the result."""
        shape, axes = self.signature.shapes[-1], self.signature.axes[-1]
        return tuple(
            size // (self.parts(axis) if axis else 1)
            for size, axis in zip(shape, axes, strict=True)
        )

    def compute(
        self, compute: Callable[..., jax.Array], lhs: jax.Array, rhs: jax.Array
    ) -> jax.Array:
        """Computes one shard of the result of shards of the operands.

        Args:
            compute: takes operands and ``convolution``, a description.
            lhs: the first operand's shard.
            rhs: the second operand's shard.
        """
        role, convolution = self.signature.role, self.signature.convolution
        images = role.images
        operands = [lhs, rhs]
        image, padding = list(convolution.image), list(convolution.padding)
        for axis in self.splits:
            if not isinstance(axis, Space):
                continue
            local = window(role, convolution, axis.index, self.parts(axis))
            assert local is not None
            operands[images] = self._with_halo(operands[images], axis, local)
            image[axis.index], padding[axis.index] = local.image, local.padding
        convolution = dataclasses.replace(
            convolution,
            image=tuple(image),
            padding=tuple(padding),
            groups=convolution.groups // self.parts(Independent.GROUPS),
        )
        result = compute(*operands, convolution=convolution)
        summed = self.summed
        return jax.lax.psum(result, summed) if summed else result

    @property
    def summed(self) -> tuple[str, ...]:
        """The axes of the mesh over which shards hold parts of a sum."""
        *_, result = self.signature.axes
        summed = (names for axis, names in self.splits.items() if axis not in result)
        return tuple(itertools.chain.from_iterable(summed))

    def _with_halo(self, array: jax.Array, along: Space, local: Window) -> jax.Array:
        # Where there is no neighbour, zeros come: they are the padding.
        axis = self.signature.axes[self.signature.role.images].index(along)
        parts, size = self.parts(along), array.shape[axis]
        pieces = [array]
        if local.before:
            last = jax.lax.slice_in_dim(array, size - local.before, size, axis=axis)
            ahead = [(i, i + 1) for i in range(parts - 1)]
            pieces.insert(0, jax.lax.ppermute(last, self.splits[along], ahead))
        if local.after:
            first = jax.lax.slice_in_dim(array, 0, local.after, axis=axis)
            back = [(i + 1, i) for i in range(parts - 1)]
            pieces.append(jax.lax.ppermute(first, self.splits[along], back))
        return jnp.concatenate(pieces, axis) if len(pieces) > 1 else array

    def check(self, specs: Sequence[PartitionSpec]) -> None:
        """Raises ``ValueError`` unless both operands can stay sharded as they are."""
        signature = self.signature
        for role, shape, spec, kept in zip(
            signature.roles, signature.shapes, specs, self.specs, strict=False
        ):
            asked, possible = map(_names, spec), map(_names, kept)
            partial = spec.unreduced or spec.reduced
            if partial or any(a and a != b for a, b in zip(asked, possible, strict=False)):
                name, order = _OPERANDS[role]
                raise ValueError(
                    f"the sharding of {name} must split batch, spatial axes and groups into equal "
                    f"parts, filters by groups only, and agree with the other operand; got {spec} "
                    f"for shape {shape} {order} on mesh {dict(self.sizes)}; "
                    f"use jax.sharding.reshard, for example to {kept}"
                )


_OPERANDS = {
    Role.INPUT_GRADIENT: ("x", "(batch, *spatial, groups * channels)"),
    Role.FILTER_GRADIENT: ("the filters", "(*filter size, channels, groups * filters)"),
    Role.FORWARD: ("the output's cotangent", "(batch, *spatial, groups * filters)"),
}


def plan(signature: Signature, specs: Sequence[PartitionSpec], sizes: Mapping[str, int]) -> Plan:
    """Splits as far as it can what the arrays' shardings split.

    Images come before filters, which are smaller and the better ones to gather where both ask for
    the same axis of the mesh.

    Args:
        signature: what there is to split.
        specs: partitions of both operands and of the result, as far as they are known.
        sizes: of the axes of the mesh.
    """
    asked = [
        (role == Role.FILTER_GRADIENT, axis, _names(entry))
        for role, axes, spec in zip(signature.roles, signature.axes, specs, strict=False)
        for axis, entry in zip(axes, spec, strict=False)
        if axis is not None
    ]
    splits: dict[Axis, tuple[str, ...]] = {}
    used: set[str] = set()
    for _, axis, names in sorted(asked, key=lambda ask: ask[0]):
        if axis in splits:
            continue
        kept = tuple(itertools.takewhile(lambda name: name not in used, names))
        while kept and not signature.divides(axis, math.prod(sizes[name] for name in kept)):
            kept = kept[:-1]
        if kept:
            splits[axis] = kept
            used.update(kept)
    return Plan(signature, splits, sizes)


def _names(entry: Any) -> tuple[str, ...]:
    """The mesh axes in one entry of a partition."""
    if entry is None or entry is PartitionSpec.UNCONSTRAINED:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)
