"""The static description of one grouped convolution, and its three roles.

A grouped convolution is linear in its input ``x``, in its filters and, contracted with a cotangent,
in its output ``y``. The forward pass, the input gradient and the filter gradient each compute one
of the three from the other two, and the derivative of each role is again one of the roles.

Everything below the public functions uses one canonical, group-major order of axes:
``x`` ``(B, *image, G*C)``, filters ``(*filter, C, G*F)`` (``HWIO`` for images), ``y``
``(B, *outputs, G*F)``.
"""

import dataclasses
import enum
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class Role(enum.IntEnum):
    """The array among ``(x, filters, y)`` that is computed from the other two, by position."""

    INPUT_GRADIENT = 0
    FILTER_GRADIENT = 1
    FORWARD = 2

    @property
    def operands(self) -> tuple["Role", "Role"]:
        """The roles whose results are this role's operands, in order."""
        first, second = (role for role in Role if role != self)
        return first, second

    @property
    def images(self) -> int:
        """The position of the operand with a batch axis; that of ``x`` if both have one."""
        return 1 if self == Role.INPUT_GRADIENT else 0


@dataclasses.dataclass(frozen=True)
class Convolution:
    """One grouped convolution in canonical order; hashable, so that it can be a static argument.

    Attributes:
        image: spatial size of ``x``.
        filter_size: spatial size of the filters.
        groups: number of groups, each with its own channels and filters.
        strides: one per axis.
        padding: zeros added (before, after) each axis; negative numbers crop.
        dilation: distance between the taps of a filter, one per axis.
        precision: as in ``jax.lax.conv_general_dilated``.
        preferred_element_type: dtype of sums and result, or ``None`` for the operands' own dtype
            with sums in at least float32.
    """

    image: tuple[int, ...]
    filter_size: tuple[int, ...]
    groups: int
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    precision: Any = None
    preferred_element_type: DTypeLike | None = None

    @property
    def effective_filter_size(self) -> tuple[int, ...]:
        """The spatial extent of the dilated filter."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.filter_size, self.dilation, strict=True))

    @property
    def padded(self) -> tuple[int, ...]:
        """Spatial size of the padded image."""
        return tuple(size + sum(pad) for size, pad in zip(self.image, self.padding, strict=True))

    @property
    def outputs(self) -> tuple[int, ...]:
        """Spatial size of ``y``."""
        sizes = zip(self.padded, self.effective_filter_size, self.strides, strict=True)
        return tuple(max((size - extent) // stride + 1, 0) for size, extent, stride in sizes)

    def widths(self, role: Role, lhs: tuple[int, ...], rhs: tuple[int, ...]) -> tuple[int, int]:
        """Channels and filters per group, given the shapes of a role's operands."""
        shapes = dict(zip(role.operands, (lhs, rhs), strict=True))
        shapes[role] = self.shape(role, lhs, rhs)
        *_, channels, outputs = shapes[Role.FILTER_GRADIENT]
        return channels, outputs // self.groups

    def shape(self, role: Role, lhs: tuple[int, ...], rhs: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a role's result, given the shapes of its operands."""
        if role == Role.FORWARD:
            return (lhs[0], *self.outputs, rhs[-1])
        if role == Role.INPUT_GRADIENT:
            return (rhs[0], *self.image, lhs[-2] * self.groups)
        return (*self.filter_size, lhs[-1] // self.groups, rhs[-1])


def is_known(size: Any) -> bool:
    """Whether a size is a number rather than a symbolic dimension of an exported program."""
    return hasattr(size, "__index__")


def static_precision(precision: Any) -> Any:
    """Returns ``precision`` in a hashable form that ``jax.lax`` accepts."""
    return tuple(precision) if isinstance(precision, list) else precision


def accumulator(*arrays: jax.Array) -> Any:
    """The dtype to sum in: float64 if one of the arrays is float64, else float32."""
    wide = any(array.dtype == jnp.float64 for array in arrays)
    return jnp.dtype(jnp.float64 if wide else jnp.float32)
