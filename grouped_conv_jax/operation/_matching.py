"""Matches a ``conv_general_dilated`` with a role of a grouped convolution.

Differentiation writes a gradient as a convolution whose operands have exchanged places, and
``vmap`` multiplies the groups. The equation's parameters alone determine the role:

=================  ============  =======  ============  ============================================
batch_group_count  lhs_dilation  strides  rhs_dilation  role
=================  ============  =======  ============  ============================================
1                  1             any      any           forward; or, if the window is larger than
                                                        the output, filter gradient with images and
                                                        channels exchanged
1                  any           1        any           input gradient with reversed filters
> 1                1             any      any           filter gradient with strides and dilation
                                                        exchanged
> 1                any           any      1             filter gradient with operands exchanged and
                                                        the result reversed
=================  ============  =======  ============  ============================================

The table is closed under differentiation and batching.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from grouped_conv_jax.operation._description import Convolution, Role, is_known
from grouped_conv_jax.operation._equation import Equation, Sizes, extents, unsupported

# With fewer channels times filters, a batch of filter gradients is faster as a forward pass, by
# sums over its taps: 64 gradients of 5x5 filters, 28x28x1 to 6, on a 2-core Xeon with AVX-512, JAX
# 0.10.0.
_MIN_WEIGHTS_PER_TAP = 8


class Match(NamedTuple):
    """An equation as one role of a grouped convolution in canonical order.

    Attributes:
        role: the role that the equation computes.
        convolution: the static description.
        channels: channels per group.
        filters: filters per group.
        batch: the number of images.
        operands: maps the equation's operands ``(lhs, rhs)`` to the role's.
        result: maps the role's result to the equation's.
    """

    role: Role
    convolution: Convolution
    channels: int
    filters: int
    batch: Any
    operands: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    result: Callable[[jax.Array], jax.Array]


def match(lhs: Any, rhs: Any, parameters: Mapping[str, Any]) -> Match | str:
    """Matches an equation with a role, or returns the reason why it has none.

    Args:
        lhs: the type of the first operand: anything with ``shape`` and ``dtype``.
        rhs: the type of the second operand.
        parameters: the equation's parameters.
    """
    why_not = unsupported(lhs, rhs, parameters)
    if why_not:
        return why_not
    equation = Equation.parse(lhs, rhs, parameters)
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
    """As :func:`match`, but only for equations in the form of a forward pass."""
    why_not = unsupported(lhs, rhs, parameters)
    if why_not:
        return why_not
    equation = Equation.parse(lhs, rhs, parameters)
    if equation.batch_groups > 1 or max(equation.holes) > 1:
        return "it is not a forward pass"
    return _forward(equation)


def _forward(equation: Equation) -> Match:
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


def _filter_gradient_of_channels(equation: Equation) -> Match | None:
    """Matches a dense filter gradient, or a ``vmap`` over dense filter gradients.

    The gradient's images are the equation's input channels, and the gradient's channels are the
    equation's images: in each group, ``I`` images have ``N`` channels and ``O`` filters.
    """
    groups = equation.groups
    channels, batch, filters = equation.widths
    if math.prod(equation.outputs) >= math.prod(equation.taps) or not is_known(channels):
        return None
    if groups > 1 and (filters == 1 or channels * filters < _MIN_WEIGHTS_PER_TAP):
        return None
    _, inner, *spatial = equation.numbers.rhs_spec
    if groups == 1 and inner > min(spatial):
        return None  # A forward pass whose filter has the image's size; transposing it is slow.

    def operands(lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, jax.Array]:
        images = equation.images(lhs)  # (N, *image, G*I)
        split = images.reshape(*images.shape[:-1], groups, -1)
        x = jnp.moveaxis(split, (-1, 0), (0, -1))  # (I, *image, G, N)
        return x.reshape(*x.shape[:-2], -1), jnp.moveaxis(equation.filters(rhs), -2, 0)

    def result(filters: jax.Array) -> jax.Array:  # (*outputs, N, G*O)
        return equation.out(jnp.moveaxis(filters, -2, 0))

    convolution = _of_filters(equation, groups)
    return Match(Role.FILTER_GRADIENT, convolution, channels, filters, batch, operands, result)


def _input_gradient(equation: Equation) -> Match:
    """``lhs`` is ``y`` ``(B, *y, G*F)``; ``rhs`` is the reversed filters ``(*taps, F, G*C)``."""
    windows = extents(equation.taps, equation.dilation)
    before = [size - 1 - pad for size, (pad, _) in zip(windows, equation.padding, strict=True)]
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


def _filter_gradient(equation: Equation) -> Match:
    """``lhs`` is ``x`` ``(G*C, *image, B)``; ``rhs`` is ``y`` ``(*y, B, G*F)``."""
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


def _of_filters(equation: Equation, groups: int) -> Convolution:
    """The convolution of a filter gradient with cotangent ``rhs`` and the filters as result."""
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


def _filter_gradient_exchanged(equation: Equation) -> Match:
    """``lhs`` is the dilated ``y`` ``(G*F, *y, B)``; ``rhs`` is ``x`` ``(*x, B, G*C)``."""
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
    """Reverses the taps and transposes each group: ``(*taps, A, G*B)`` to ``(*taps, B, G*A)``."""
    reversed_ = jnp.flip(filters, tuple(range(filters.ndim - 2)))
    split = reversed_.reshape(*filters.shape[:-1], groups, -1)
    exchanged = jnp.swapaxes(split, -3, -1)
    return exchanged.reshape(*exchanged.shape[:-2], -1)


def _padding(
    image: Sizes, taps: Sizes, strides: Sizes, dilation: Sizes, before: Sequence[int], count: Sizes
) -> tuple[tuple[int, int], ...]:
    """A padding that gives a forward pass ``count`` outputs; after the image zero if possible."""
    pairs = []
    for size, extent, stride, pad, outputs in zip(
        image, extents(taps, dilation), strides, before, count, strict=True
    ):
        least = (outputs - 1) * stride + extent - size - pad
        pairs.append((pad, 0 if least <= 0 < least + stride else least))
    return tuple(pairs)
