"""A ``conv_general_dilated`` equation: its sizes, and its operands in canonical order."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from grouped_conv_jax.operation._description import Convolution, is_known, static_precision

Sizes: TypeAlias = tuple[int, ...]

_DTYPES = (jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16)


def unsupported(lhs: Any, rhs: Any, parameters: Mapping[str, Any]) -> str | None:
    """Why an equation cannot be matched, judging by its types alone, or ``None``."""
    numbers = parameters["dimension_numbers"]
    if len(lhs.shape) == 2:
        return "it has no spatial axis"
    if jnp.issubdtype(lhs.dtype, jnp.complexfloating):
        return "JAX splits a complex convolution into real ones, which are matched separately"
    if lhs.dtype != rhs.dtype or lhs.dtype not in _DTYPES:
        return f"its operands are {lhs.dtype} and {rhs.dtype}, not of one floating-point dtype"
    if 0 in (*lhs.shape, *rhs.shape):
        return "one of its operands is empty"
    # Exported programs may have symbolic sizes, of which only the number of images is supported.
    batch = numbers.lhs_spec[0], numbers.rhs_spec[0]
    if parameters["batch_group_count"] > 1:
        batch = numbers.lhs_spec[1], numbers.rhs_spec[1]
        known = [n for i, n in enumerate(rhs.shape) if i != batch[1]]
    else:
        known = [*rhs.shape]
    known += [n for i, n in enumerate(lhs.shape) if i != batch[0]]
    known += [n for pair in parameters["padding"] for n in pair]
    return None if all(map(is_known, known)) else "not all of its sizes are known"


@dataclasses.dataclass(frozen=True)
class Equation:
    """The sizes of an equation.

    In canonical order, ``lhs`` is ``(N, *image, G*I)``, ``rhs`` is ``(*taps, I, G*O)`` and the
    result is ``(N, *outputs, G*O)``. With ``batch_groups``, ``lhs`` is ``(G*N, *image, I)``.

    Attributes:
        image: spatial size of ``lhs``.
        taps: spatial size of ``rhs``.
        outputs: spatial size of the result.
        strides: ``window_strides``.
        dilation: ``rhs_dilation``.
        holes: ``lhs_dilation``.
        padding: zeros added (before, after) each spatial axis.
        groups: ``feature_group_count``.
        batch_groups: ``batch_group_count``.
        widths: ``(N, I, O)``.
        numbers: JAX's dimension numbers.
        settings: the precision and the element type, as :class:`Convolution` takes them.
    """

    image: Sizes
    taps: Sizes
    outputs: Sizes
    strides: Sizes
    dilation: Sizes
    holes: Sizes
    padding: tuple[tuple[int, int], ...]
    groups: int
    batch_groups: int
    widths: tuple[Any, Any, Any]
    numbers: Any
    settings: Mapping[str, Any]

    @classmethod
    def parse(cls, lhs: Any, rhs: Any, parameters: Mapping[str, Any]) -> "Equation":
        """Reads the types of the operands and the equation's parameters."""
        numbers = parameters["dimension_numbers"]
        image = tuple(int(lhs.shape[axis]) for axis in numbers.lhs_spec[2:])
        taps = tuple(int(rhs.shape[axis]) for axis in numbers.rhs_spec[2:])
        holes, strides, dilation = (
            tuple(map(int, parameters[name]))
            for name in ("lhs_dilation", "window_strides", "rhs_dilation")
        )
        padding = tuple((int(before), int(after)) for before, after in parameters["padding"])
        ungrouped = Convolution(extents(image, holes), taps, 1, strides, padding, dilation)
        groups, batch_groups = parameters["feature_group_count"], parameters["batch_group_count"]
        images = lhs.shape[numbers.lhs_spec[0]]
        if batch_groups > 1:
            images //= batch_groups
        outputs, inputs, *_ = (rhs.shape[axis] for axis in numbers.rhs_spec)
        return cls(
            image,
            taps,
            ungrouped.outputs,
            strides,
            dilation,
            holes,
            padding,
            groups,
            batch_groups,
            (images, inputs, outputs // max(groups, batch_groups)),
            numbers,
            {
                "precision": static_precision(parameters["precision"]),
                "preferred_element_type": parameters["preferred_element_type"],
            },
        )

    def images(self, lhs: jax.Array) -> jax.Array:
        """Transposes ``lhs`` to ``(N, *image, G*I)``."""
        return jnp.transpose(lhs, _batch_first_channels_last(self.numbers.lhs_spec))

    def filters(self, rhs: jax.Array) -> jax.Array:
        """Transposes ``rhs`` to ``(*taps, I, G*O)``."""
        outputs, inputs, *spatial = self.numbers.rhs_spec
        return jnp.transpose(rhs, [*spatial, inputs, outputs])

    def out(self, y: jax.Array) -> jax.Array:
        """Transposes ``(N, *outputs, G*O)`` to the order of the equation's result."""
        order = _batch_first_channels_last(self.numbers.out_spec)
        return jnp.transpose(y, [order.index(axis) for axis in range(y.ndim)])


def extents(sizes: Sizes, dilation: Sizes) -> Sizes:
    """The sizes spanned by taps or pixels at the given distances."""
    return tuple((size - 1) * step + 1 for size, step in zip(sizes, dilation, strict=True))


def _batch_first_channels_last(spec: Sequence[int]) -> list[int]:
    """Reorders JAX's ``(batch, channels, *spatial)`` to canonical order."""
    return [spec[0], *spec[2:], spec[1]]
