"""How one bound convolution is split over the devices of a mesh, and what each of them computes.

The batch and the groups are independent: a shard of them needs no other.
A shard of a spatial axis needs a few rows of its neighbours, its halo. Filters are split by groups
alone, and channels are never cut inside of a group. What an operand's sharding asks for beyond
this, or what does not divide evenly, is not split.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from grouped_conv_jax._convolution import Convolution, Role

Names: TypeAlias = tuple[str | None, ...]
"""What each axis of an array is, ``None`` where it is never split."""


@dataclasses.dataclass(frozen=True)
class Signature:
    """What there is to split: a role, and the shapes of its operands and its result.

    Attributes:
        role: what is computed.
        convolution: the static description.
        shapes: of the two operands and of the result.
    """

    role: Role
    convolution: Convolution
    shapes: tuple[tuple[int, ...], ...]

    @property
    def roles(self) -> tuple[Role, Role, Role]:
        """The arrays: both operands, and the result."""
        return (*self.role.operands, self.role)

    @functools.cached_property
    def names(self) -> tuple[Names, ...]:
        """What the axes of each array are."""
        return tuple(_names(role, len(self.convolution.image)) for role in self.roles)

    def divides(self, name: str, parts: int) -> bool:
        """Whether what is called ``name`` can be split into so many equal parts."""
        if name == "groups":
            return self.convolution.groups % parts == 0
        if name.startswith("space"):
            return window(self.role, self.convolution, int(name[5:]), parts) is not None
        sizes = (
            size
            for names, shape in zip(self.names, self.shapes, strict=True)
            for axis, size in zip(names, shape, strict=True)
            if axis == name
        )
        return next(sizes) % parts == 0


def _names(role: Role, spatial: int) -> Names:
    if role == Role.FILTER_GRADIENT:
        return (*(None,) * (spatial + 1), "groups")
    return ("batch", *(f"space{i}" for i in range(spatial)), "groups")


class Window(NamedTuple):
    """One axis of the convolution of one shard.

    Attributes:
        before: rows that it needs of the shard before it.
        after: rows that it needs of the shard after it.
        image: its size of ``x``, halo included.
        padding: its padding.
    """

    before: int
    after: int
    image: int
    padding: tuple[int, int]


def window(role: Role, convolution: Convolution, axis: int, parts: int) -> Window | None:
    """What a shard of a spatial axis computes; ``None`` where the shards would not be alike.

    Output ``j`` reads the rows of ``x`` from ``j * stride - pad`` on, as many as the filter
    extends over.
    """
    stride, pad = convolution.strides[axis], convolution.padding[axis][0]
    extent = convolution.effective_filter_size[axis]
    image, remainder = divmod(convolution.image[axis], parts)
    outputs, rest = divmod(convolution.outputs[axis], parts)
    if remainder or rest or outputs * stride != image:
        return None
    if role != Role.INPUT_GRADIENT:
        after = extent - stride - pad
        halo = max(pad, 0), max(after, 0)
        if max(halo) > image:
            return None
        return Window(*halo, image + sum(halo), (min(pad, 0), min(after, 0)))
    before, after = max((extent - 1 - pad) // stride, 0), max(-(-pad // stride), 0)
    if max(before, after) > outputs:
        return None
    first = pad + before * stride
    last = (before + outputs + after - 1) * stride + extent - image - first
    return Window(before, after, image, (first, last))


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which axes of a mesh split what.

    Attributes:
        signature: what there is to split.
        splits: the axes of the mesh for each name, the major one first.
        sizes: of the axes of the mesh.
    """

    signature: Signature
    splits: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, int]

    @property
    def specs(self) -> list[PartitionSpec]:
        """For both operands and the result."""
        return [
            PartitionSpec(*(self.splits.get(name or "") for name in names))
            for names in self.signature.names
        ]

    def parts(self, name: str) -> int:
        """The number of parts."""
        return math.prod(self.sizes[axis] for axis in self.splits.get(name, ()))

    @property
    def shard(self) -> tuple[int, ...]:
        """The shape of a shard of the result."""
        shape, names = self.signature.shapes[-1], self.signature.names[-1]
        return tuple(
            size // self.parts(name or "") for size, name in zip(shape, names, strict=True)
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
        for i in range(len(image)):
            name = f"space{i}"
            if name not in self.splits:
                continue
            local = window(role, convolution, i, self.parts(name))
            assert local is not None
            axis = self.signature.names[images].index(name)
            operands[images] = self._with_halo(operands[images], axis, name, local)
            image[i], padding[i] = local.image, local.padding
        convolution = dataclasses.replace(
            convolution,
            image=tuple(image),
            padding=tuple(padding),
            groups=convolution.groups // self.parts("groups"),
        )
        result = compute(*operands, convolution=convolution)
        summed = self.summed
        return jax.lax.psum(result, summed) if summed else result

    @property
    def summed(self) -> tuple[str, ...]:
        """The axes of the mesh over which shards hold parts of a sum."""
        *_, result = self.signature.names
        axes = (axes for name, axes in self.splits.items() if name not in result)
        return tuple(itertools.chain.from_iterable(axes))

    def _with_halo(self, array: jax.Array, axis: int, name: str, local: Window) -> jax.Array:
        # Where there is no neighbour, zeros come: they are the padding.
        parts, size = self.parts(name), array.shape[axis]
        pieces = [array]
        if local.before:
            last = jax.lax.slice_in_dim(array, size - local.before, size, axis=axis)
            ahead = [(i, i + 1) for i in range(parts - 1)]
            pieces.insert(0, jax.lax.ppermute(last, self.splits[name], ahead))
        if local.after:
            first = jax.lax.slice_in_dim(array, 0, local.after, axis=axis)
            back = [(i + 1, i) for i in range(parts - 1)]
            pieces.append(jax.lax.ppermute(first, self.splits[name], back))
        return jnp.concatenate(pieces, axis) if len(pieces) > 1 else array

    def check(self, specs: Sequence[PartitionSpec]) -> None:
        """Raises ``ValueError`` unless both operands can stay sharded as they are."""
        signature = self.signature
        for role, shape, spec, kept in zip(
            signature.roles, signature.shapes, specs, self.specs, strict=False
        ):
            asked, possible = map(_axes, spec), map(_axes, kept)
            partial = spec.unreduced or spec.reduced
            if partial or any(a and a != b for a, b in zip(asked, possible, strict=False)):
                name, axes = _OPERANDS[role]
                raise ValueError(
                    f"the sharding of {name} must split batch, spatial axes and groups into equal "
                    f"parts, filters by groups only, and agree with the other operand; got {spec} "
                    f"for shape {shape} {axes} on mesh {dict(self.sizes)}; "
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
        (role == Role.FILTER_GRADIENT, name, _axes(entry))
        for role, names, spec in zip(signature.roles, signature.names, specs, strict=False)
        for name, entry in zip(names, spec, strict=False)
        if name is not None
    ]
    splits: dict[str, tuple[str, ...]] = {}
    used: set[str] = set()
    for _, name, axes in sorted(asked, key=lambda ask: ask[0]):
        if name in splits:
            continue
        kept = tuple(itertools.takewhile(lambda axis: axis not in used, axes))
        while kept and not signature.divides(name, math.prod(sizes[axis] for axis in kept)):
            kept = kept[:-1]
        if kept:
            splits[name] = kept
            used.update(kept)
    return Plan(signature, splits, sizes)


def _axes(entry: Any) -> tuple[str, ...]:
    """The axes of a mesh in one entry of a partition."""
    if entry is None or entry is PartitionSpec.UNCONSTRAINED:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def is_on_explicit_axes(*operands: Any) -> bool:
    """Whether the types of arrays are sharded over a mesh, or would be if it were asked for."""
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
    """A forward pass over explicit axes of a mesh, for which lax has no rule where groups are.

    Args:
        compute: the forward pass.
        x: in canonical order.
        filters: likewise.
        convolution: the static description.

    Raises:
        ValueError: the operands cannot stay sharded as they are.
    """
    shardings = [jax.typeof(array).sharding for array in (x, filters)]
    specs = [sharding.spec for sharding in shardings]
    # An array that was never placed has an empty mesh.
    mesh = next(sharding.mesh for sharding in shardings if not sharding.mesh.empty)
    shapes = x.shape, filters.shape, convolution.shape(Role.FORWARD, x.shape, filters.shape)
    chosen = plan(Signature(Role.FORWARD, convolution, shapes), specs, mesh.shape)
    chosen.check(specs)
    return jax.sharding.auto_axes(compute, out_sharding=NamedSharding(mesh, chosen.specs[-1]))(
        x, filters
    )
