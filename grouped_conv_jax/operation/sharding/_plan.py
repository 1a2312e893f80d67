"""Plans how one role of a convolution is split over a mesh, and what each device computes.

The plan keeps a split of the operands if it is over the batch, the groups or a spatial axis and
divides the axis evenly. It drops every other split: filters are split by groups only, and channels
within a group are never split.
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
    """The assignment of mesh axes to axes of a convolution.

    Attributes:
        signature: the role, and the shapes of its operands and result.
        splits: the mesh axes that split each axis, the major one first.
        sizes: the sizes of the mesh axes.
    """

    signature: Signature
    splits: Mapping[Axis, tuple[str, ...]]
    sizes: Mapping[str, int]

    @property
    def specs(self) -> list[PartitionSpec]:
        """The partition specs of both operands and of the result."""
        return [
            PartitionSpec(*(axis and self.splits.get(axis) for axis in axes))
            for axes in self.signature.axes
        ]

    def parts(self, axis: Axis) -> int:
        """The number of parts that an axis is split into."""
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
        """Computes one shard of the result from shards of the operands.

        Args:
            compute: computes the role from operands and the keyword ``convolution``.
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
        """The mesh axes over which the shards hold partial sums."""
        *_, result = self.signature.axes
        summed = (names for axis, names in self.splits.items() if axis not in result)
        return tuple(itertools.chain.from_iterable(summed))

    def _with_halo(self, array: jax.Array, along: Space, local: Window) -> jax.Array:
        # At the border of the image ppermute yields zeros, which are the padding.
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
        """Raises ``ValueError`` unless the plan keeps the given shardings of both operands."""
        signature = self.signature
        for role, shape, spec, planned in zip(
            signature.roles, signature.shapes, specs, self.specs, strict=False
        ):
            pairs = zip(map(_names, spec), map(_names, planned), strict=False)
            partial = spec.unreduced or spec.reduced
            if partial or any(given and given != kept for given, kept in pairs):
                name, order = _OPERANDS[role]
                raise ValueError(
                    f"the sharding of {name} must split batch, spatial axes and groups into equal "
                    f"parts, filters by groups only, and agree with the other operand; got {spec} "
                    f"for shape {shape} {order} on mesh {dict(self.sizes)}; "
                    f"use jax.sharding.reshard, for example to {planned}"
                )


_OPERANDS = {
    Role.INPUT_GRADIENT: ("x", "(batch, *spatial, groups * channels)"),
    Role.FILTER_GRADIENT: ("the filters", "(*filter size, channels, groups * filters)"),
    Role.FORWARD: ("the output's cotangent", "(batch, *spatial, groups * filters)"),
}


def plan(signature: Signature, specs: Sequence[PartitionSpec], sizes: Mapping[str, int]) -> Plan:
    """Plans a split that follows the arrays' shardings as far as possible.

    If images and filters use the same mesh axis for different axes, the images keep it, since
    filters are smaller and thus cheaper to gather.

    Args:
        signature: the role, and the shapes of its operands and result.
        specs: the partition specs of both operands and of the result, as far as they are known.
        sizes: the sizes of the mesh axes.
    """
    requests = [
        (role == Role.FILTER_GRADIENT, axis, _names(entry))
        for role, axes, spec in zip(signature.roles, signature.axes, specs, strict=False)
        for axis, entry in zip(axes, spec, strict=False)
        if axis is not None
    ]
    splits: dict[Axis, tuple[str, ...]] = {}
    used: set[str] = set()
    for _, axis, names in sorted(requests, key=lambda request: request[0]):
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
    """The mesh axes in one entry of a partition spec."""
    if entry is None or entry is PartitionSpec.UNCONSTRAINED:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)
