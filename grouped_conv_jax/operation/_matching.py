"""Which role of which grouped convolution a ``conv_general_dilated`` is, whoever made it.

Differentiation writes a gradient as a convolution whose operands have exchanged places; ``vmap``
multiplies groups. Both are undone by algebra on the equation's parameters alone:

=================  ============  =======  ============  ============================================
batch_group_count  lhs_dilation  strides  rhs_dilation  role
=================  ============  =======  ============  ============================================
1                  1             any      any           forward; or filter gradient, of images that
                                                        are its channels, if its window is larger
                                                        than its output
1                  any           1        any           input gradient, its filters reversed
> 1                1             any      any           filter gradient, strides and dilation
                                                        exchanged
> 1                any           any      1             filter gradient, its operands exchanged and
                                                        the result reversed
=================  ============  =======  ============  ============================================

Derivatives of any order, and batching of any of them, stay within the table.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from grouped_conv_jax.operation._description import Convolution, Role, is_known, static_precision

_DTYPES = (jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16)
Sizes: TypeAlias = tuple[int, ...]

# Of fewer channels times filters, sums over the taps of a forward pass take a fifth to half of the
# time: 64 gradients of 5x5 filters, 28x28x1 to 6.
_FEW = 8


class Match(NamedTuple):
    """An equation, written as one role of a grouped convolution in canonical order.

    Attributes:
        role: what it computes.
        convolution: the static description.
        channels: per group.
        filters: per group.
        batch: how many images there are.
        operands: the role's operands from the equation's, ``(lhs, rhs)``.
        result: the equation's result from the role's.
    """

    role: Role
    convolution: Convolution
    channels: int
    filters: int
    batch: Any
    operands: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    result: Callable[[jax.Array], jax.Array]


def match(lhs: Any, rhs: Any, parameters: Mapping[str, Any]) -> Match | str:
    """Matches an equation; returns a reason where it is no role of a grouped convolution.

    Args:
        lhs: the type of the first operand: anything with ``shape`` and ``dtype``.
        rhs: likewise.
        parameters: of the equation.
    """
    why_not = _unsupported(lhs, rhs, parameters)
    if why_not:
        return why_not
    equation = _Equation.of(lhs, rhs, parameters)
    one = (1,) * len(equation.image)
    if min(equation.outputs) < 1:
        return "it has no outputs"
    if equation.batch_groups == 1:
        if equation.holes == one:
            return _filter_gradient_of_channels(equation) or _forward(equation)
        if equation.strides == one:
            return _input_gradient(equation)
        return "both its input and its output are strided"
    if equation.holes == one:
        return _filter_gradient(equation)
    if equation.dilation == one:
        return _filter_gradient_exchanged(equation)
    return "both of its operands are dilated"


def forward_pass(lhs: Any, rhs: Any, parameters: Mapping[str, Any]) -> Match | str:
    """As :func:`match`, but of a forward pass that is computed as it is written, or of nothing."""
    why_not = _unsupported(lhs, rhs, parameters)
    if why_not:
        return why_not
    equation = _Equation.of(lhs, rhs, parameters)
    if equation.batch_groups > 1 or max(equation.holes) > 1:
        return "it is no forward pass"
    return _forward(equation)


def _unsupported(lhs: Any, rhs: Any, parameters: Mapping[str, Any]) -> str | None:
    numbers = parameters["dimension_numbers"]
    if len(lhs.shape) == 2:
        return "it has no spatial axis"
    if jnp.issubdtype(lhs.dtype, jnp.complexfloating):
        return "JAX makes real convolutions of complex ones, which are looked at in turn"
    if lhs.dtype != rhs.dtype or lhs.dtype not in _DTYPES:
        return f"its operands are {lhs.dtype} and {rhs.dtype}, not floating-point numbers of a kind"
    if 0 in (*lhs.shape, *rhs.shape):
        return "one of its operands is empty"
    # In an exported program sizes may be symbols; the one over which nothing but images is counted
    # can be.
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
class _Equation:
    """The geometry of an equation, and its operands in canonical order.

    ``lhs`` is ``(N, *image, G*I)`` and ``rhs`` is ``(*taps, I, G*O)``; with groups of the batch,
    ``lhs`` is ``(G*N, *image, I)``. ``out`` is ``(N, *outputs, G*O)``; ``widths`` are
    ``(N, I, O)``.
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
    def of(cls, lhs: Any, rhs: Any, parameters: Mapping[str, Any]) -> "_Equation":
        numbers = parameters["dimension_numbers"]
        image = tuple(int(lhs.shape[axis]) for axis in numbers.lhs_spec[2:])
        taps = tuple(int(rhs.shape[axis]) for axis in numbers.rhs_spec[2:])
        holes, strides, dilation = (
            tuple(map(int, parameters[name]))
            for name in ("lhs_dilation", "window_strides", "rhs_dilation")
        )
        padding = tuple((int(before), int(after)) for before, after in parameters["padding"])
        spread = _extent(image, holes)
        whole = Convolution(spread, taps, 1, strides, padding, dilation)
        groups, batch_groups = parameters["feature_group_count"], parameters["batch_group_count"]
        images = lhs.shape[numbers.lhs_spec[0]]
        if batch_groups > 1:
            images //= batch_groups
        outputs, inputs, *_ = (rhs.shape[axis] for axis in numbers.rhs_spec)
        return cls(
            image,
            taps,
            whole.outputs,
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
        """``(N, *image, G*I)``."""
        return jnp.transpose(lhs, _batch_first_channels_last(self.numbers.lhs_spec))

    def filters(self, rhs: jax.Array) -> jax.Array:
        """``(*taps, I, G*O)``."""
        outputs, inputs, *spatial = self.numbers.rhs_spec
        return jnp.transpose(rhs, [*spatial, inputs, outputs])

    def out(self, y: jax.Array) -> jax.Array:
        """The result, from ``(N, *outputs, G*O)``."""
        order = _batch_first_channels_last(self.numbers.out_spec)
        return jnp.transpose(y, [order.index(axis) for axis in range(y.ndim)])


def _forward(equation: _Equation) -> Match:
    convolution = Convolution(
        equation.image,
        equation.taps,
        equation.groups,
        equation.strides,
        equation.padding,
        equation.dilation,
        **equation.settings,
    )
    batch, channels, filters = equation.widths
    return Match(
        Role.FORWARD,
        convolution,
        channels,
        filters,
        batch,
        lambda lhs, rhs: (equation.images(lhs), equation.filters(rhs)),
        equation.out,
    )


def _filter_gradient_of_channels(equation: _Equation) -> Match | None:
    """A dense filter gradient; ``vmap`` makes a grouped one of many: the groups do not mix.

    Of each group, ``I`` images have ``N`` channels and ``O`` filters.
    """
    groups = equation.groups
    channels, batch, filters = equation.widths
    if math.prod(equation.outputs) >= math.prod(equation.taps) or not is_known(channels):
        return None
    if groups > 1 and (filters == 1 or channels * filters < _FEW):
        return None
    _, inner, *spatial = equation.numbers.rhs_spec
    if groups == 1 and inner > min(spatial):
        return None  # No gradient, but a filter of the image's size, too large to be transposed.

    def operands(lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, jax.Array]:
        images = equation.images(lhs)  # (N, *image, G*I)
        split = images.reshape(*images.shape[:-1], groups, -1)
        x = jnp.moveaxis(split, (-1, 0), (0, -1))  # (I, *image, G, N)
        return x.reshape(*x.shape[:-2], -1), jnp.moveaxis(equation.filters(rhs), -2, 0)

    def result(filters: jax.Array) -> jax.Array:  # (*outputs, N, G*O)
        return equation.out(jnp.moveaxis(filters, -2, 0))

    convolution = _of_filters(equation, groups)
    return Match(Role.FILTER_GRADIENT, convolution, channels, filters, batch, operands, result)


def _input_gradient(equation: _Equation) -> Match:
    """``lhs`` is ``y`` ``(B, *y, G*F)``, ``rhs`` is reversed and ``(*taps, F, G*C)``."""
    extent = _extent(equation.taps, equation.dilation)
    before = [size - 1 - pad for size, (pad, _) in zip(extent, equation.padding, strict=True)]
    convolution = Convolution(
        equation.outputs,
        equation.taps,
        equation.groups,
        equation.holes,
        _padding(
            equation.outputs,
            equation.taps,
            equation.holes,
            equation.dilation,
            before,
            equation.image,
        ),
        equation.dilation,
        **equation.settings,
    )

    def operands(lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, jax.Array]:
        filters = _exchange(equation.filters(rhs), equation.groups)
        return filters, equation.images(lhs)

    batch, filters, channels = equation.widths
    return Match(Role.INPUT_GRADIENT, convolution, channels, filters, batch, operands, equation.out)


def _filter_gradient(equation: _Equation) -> Match:
    """``lhs`` is ``x`` ``(G*C, *image, B)``, ``rhs`` is ``y`` ``(*y, B, G*F)``."""
    channels, batch, filters = equation.widths
    return Match(
        Role.FILTER_GRADIENT,
        _of_filters(equation, equation.batch_groups),
        channels,
        filters,
        batch,
        lambda lhs, rhs: (
            jnp.swapaxes(equation.images(lhs), 0, -1),
            jnp.moveaxis(equation.filters(rhs), -2, 0),
        ),
        lambda filters: equation.out(jnp.moveaxis(filters, -2, 0)),
    )


def _of_filters(equation: _Equation, groups: int) -> Convolution:
    """The convolution of a filter gradient whose outputs are ``rhs`` and whose filters ``out``."""
    before = [pad for pad, _ in equation.padding]
    return Convolution(
        equation.image,
        equation.outputs,
        groups,
        equation.dilation,
        _padding(
            equation.image,
            equation.outputs,
            equation.dilation,
            equation.strides,
            before,
            equation.taps,
        ),
        equation.strides,
        **equation.settings,
    )


def _filter_gradient_exchanged(equation: _Equation) -> Match:
    """``lhs`` is ``y`` ``(G*F, *y, B)`` with holes, ``rhs`` is ``x`` ``(*x, B, G*C)``."""
    groups = equation.batch_groups
    before = [
        (size - 1) * step - pad
        for size, step, (pad, _) in zip(
            equation.outputs, equation.strides, equation.padding, strict=True
        )
    ]
    convolution = Convolution(
        equation.taps,
        equation.outputs,
        groups,
        equation.holes,
        _padding(
            equation.taps,
            equation.outputs,
            equation.holes,
            equation.strides,
            before,
            equation.image,
        ),
        equation.strides,
        **equation.settings,
    )
    filters, batch, channels = equation.widths
    return Match(
        Role.FILTER_GRADIENT,
        convolution,
        channels,
        filters,
        batch,
        lambda lhs, rhs: (
            jnp.moveaxis(equation.filters(rhs), -2, 0),
            jnp.swapaxes(equation.images(lhs), 0, -1),
        ),
        # From (*outputs, C, G*F), reversed, to (F, *outputs, G*C).
        lambda result: equation.out(jnp.moveaxis(_exchange(result, groups), -2, 0)),
    )


def _exchange(filters: jax.Array, groups: int) -> jax.Array:
    """Reversed, ``(*taps, A, G*B)`` to ``(*taps, B, G*A)``: another convolution's transpose."""
    reversed_ = jnp.flip(filters, tuple(range(filters.ndim - 2)))
    split = reversed_.reshape(*filters.shape[:-1], groups, -1)
    exchanged = jnp.swapaxes(split, -3, -1)
    return exchanged.reshape(*exchanged.shape[:-2], -1)


def _batch_first_channels_last(spec: Sequence[int]) -> list[int]:
    """``(batch, channels, *spatial)``, as JAX orders its dimension numbers, in canonical order."""
    return [spec[0], *spec[2:], spec[1]]


def _extent(sizes: Sizes, dilation: Sizes) -> Sizes:
    return tuple((size - 1) * step + 1 for size, step in zip(sizes, dilation, strict=True))


def _padding(
    image: Sizes, taps: Sizes, strides: Sizes, dilation: Sizes, before: Sequence[int], count: Sizes
) -> tuple[tuple[int, int], ...]:
    """A padding with which a forward pass has ``count`` outputs: none after where none will do."""
    pairs = []
    for size, extent, stride, pad, outputs in zip(
        image, _extent(taps, dilation), strides, before, count, strict=True
    ):
        least = (outputs - 1) * stride + extent - size - pad
        pairs.append((pad, 0 if least <= 0 < least + stride else least))
    return tuple(pairs)
