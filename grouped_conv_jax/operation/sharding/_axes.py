"""What can be split in a convolution: the batch, the groups, and spatial axes with their halos."""

import dataclasses
import enum
import functools
from typing import NamedTuple, TypeAlias

from grouped_conv_jax.operation._description import Convolution, Role


class Independent(enum.Enum):
    """Axes whose shards need nothing of each other."""

    BATCH = enum.auto()
    GROUPS = enum.auto()


@dataclasses.dataclass(frozen=True)
class Space:
    """A spatial axis, whose shards need a few rows of their neighbours.

    Attributes:
        index: which one, from 0.
    """

    index: int


Axis: TypeAlias = Independent | Space
Axes: TypeAlias = tuple[Axis | None, ...]
"""The axes of an array, ``None`` for one that is never split."""


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
    def axes(self) -> tuple[Axes, ...]:
        """The axes of each array."""
        return tuple(_axes(role, len(self.convolution.image)) for role in self.roles)

    def divides(self, axis: Axis, parts: int) -> bool:
        """Whether an axis can be split into so many equal parts."""
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
