"""The reference: ``jax.lax.conv_general_dilated`` with ``feature_group_count``."""

import functools
import string
from typing import Any

import jax
import jax.numpy as jnp

from grouped_conv_jax.operation._description import Convolution, Role


def unsupported(role: Role, convolution: Convolution, channels: int, filters: int) -> str | None:
    """Nothing is."""
    del role, convolution, channels, filters
    return None


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """Convolves ``x`` ``(B, *in, G*C)`` with ``filters`` ``(*filter, C, G*F)``."""
    spatial = string.digits[: len(convolution.strides)]
    # XLA sums 16-bit operands in float32 by itself. Asking for it with preferred_element_type
    # would make the cotangent float32, and with it the whole backward pass.
    return jax.lax.conv_general_dilated(
        x,
        filters,
        window_strides=convolution.strides,
        padding=convolution.padding,
        rhs_dilation=convolution.dilation,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=convolution.groups,
        precision=convolution.precision,
        preferred_element_type=convolution.preferred_element_type,
    )


def input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """The transpose of :func:`forward` in ``x``, as JAX derives it."""
    shape = convolution.shape(Role.INPUT_GRADIENT, filters.shape, y.shape)
    x = jax.ShapeDtypeStruct(shape, y.dtype)
    (result,) = jax.linear_transpose(lambda x: forward(x, filters, convolution), x)(y)
    return result


def filter_gradient(x: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """The transpose of :func:`forward` in the filters, as JAX derives it."""
    shape = convolution.shape(Role.FILTER_GRADIENT, x.shape, y.shape)
    filters = jax.ShapeDtypeStruct(shape, x.dtype)
    (result,) = jax.linear_transpose(lambda filters: forward(x, filters, convolution), filters)(y)
    return result


def check_precision(precision: Any) -> Any:
    """Returns ``precision``; raises ``ValueError`` unless lax knows it."""
    try:
        _trace_with_precision(precision)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "precision must be hashable and one that jax.lax.conv_general_dilated takes, "
            f"got {precision!r}"
        ) from error
    return precision


@functools.cache
def _trace_with_precision(precision: Any) -> None:
    # The names that lax knows are not public; the smallest convolution tells.
    image = jax.ShapeDtypeStruct((1, 1, 1), jnp.float32)
    smallest = Convolution((1,), (1,), 1, (1,), ((0, 0),), (1,), precision)
    jax.eval_shape(functools.partial(forward, convolution=smallest), image, image)
