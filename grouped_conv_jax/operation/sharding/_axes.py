"""The axes of a convolution that can be split: batch, groups, and spatial axes with halos."""

import dataclasses
import enum
import functools
from typing import NamedTuple, TypeAlias

from grouped_conv_jax.operation._description import Convolution, Role


class Independent(enum.Enum):
    """Axes whose shards are independent of each other."""

    BATCH = enum.auto()
    GROUPS = enum.auto()


@dataclasses.dataclass(frozen=True)
class Space:
    """A spatial axis, whose shards need a halo: a few rows of the neighbouring shards.

    Attributes:
        index: the position among the spatial axes, from 0.
    """

    index: int


Axis: TypeAlias = Independent | Space
Axes: TypeAlias = tuple[Axis | None, ...]
"""The axes of an array, ``None`` for one that is never split."""


@dataclasses.dataclass(frozen=True)
class Signature:
    """A role of a convolution, and the shapes of its operands and of its result.

    Attributes:
        role: the role to compute.
        convolution: the static description.
        shapes: the shapes of the two operands and of the result.
    """

    role: Role
    convolution: Convolution
    shapes: tuple[tuple[int, ...], ...]

    @property
    def roles(self) -> tuple[Role, Role, Role]:
        """The roles of the arrays: of both operands and of the result."""
        return (*self.role.operands, self.role)

    @functools.cached_property
    def axes(self) -> tuple[Axes, ...]:
        """The axes of each array."""
        return tuple(_axes(role, len(self.convolution.image)) for role in self.roles)

    def divides(self, axis: Axis, parts: int) -> bool:
        """Whether an axis can be split into ``parts`` equal parts."""
        if axis is Independent.GROUPS:
            return self.convolution.groups % parts == 0
        if isinstance(axis, Space):
            return window(self.role, self.convolution, axis.index, parts) is not None
        batch = self.shapes[self.role.images][0]
        return batch % parts == 0


def _axes(role: Role, spatial: int) -> Axes:
    if role == Role.FILTER_GRADIENT:
        return (*(None,) * (spatial + 1), Independent.GROUPS)
    return (Independent.BATCH, *map(Space, range(spatial)), Independent.GROUPS)


class Window(NamedTuple):
    """One spatial axis of the convolution that one shard computes.

    Attributes:
        before: the number of rows needed from the preceding shard.
        after: the number of rows needed from the following shard.
        image: the size of ``x``, including the halo.
        padding: the padding of ``x``.
    """

    before: int
    after: int
    image: int
    padding: tuple[int, int]


def window(role: Role, convolution: Convolution, axis: int, parts: int) -> Window | None:
    """Returns what a shard of a spatial axis computes, or ``None`` if the shards would differ.

    Output ``j`` depends on the rows of ``x`` from ``j * stride - pad`` on, as many as the effective
    filter size.
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
