"""The reference: ``jax.lax.conv_general_dilated`` with ``feature_group_count``."""

import string

import jax

from grouped_conv_jax.operation._description import Convolution, Role


def unsupported(role: Role, convolution: Convolution, channels: int, filters: int) -> str | None:
    """Why this implementation cannot compute ``role``: it computes every role."""
    del role, convolution, channels, filters
    return None


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """Convolves ``x`` ``(B, *in, G*C)`` with ``filters`` ``(*filter, C, G*F)``."""
    spatial = string.digits[: len(convolution.strides)]
    # XLA accumulates sums over 16-bit operands in float32 by default. Requesting that with
    # preferred_element_type would make the cotangent, and thus the whole backward pass, float32.
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
    """The transpose of :func:`forward` with respect to ``x``, as derived by JAX."""
    shape = convolution.shape(Role.INPUT_GRADIENT, filters.shape, y.shape)
    x = jax.ShapeDtypeStruct(shape, y.dtype)
    (result,) = jax.linear_transpose(lambda x: forward(x, filters, convolution), x)(y)
    return result


def filter_gradient(x: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """The transpose of :func:`forward` with respect to the filters, as derived by JAX."""
    shape = convolution.shape(Role.FILTER_GRADIENT, x.shape, y.shape)
    filters = jax.ShapeDtypeStruct(shape, x.dtype)
    (result,) = jax.linear_transpose(lambda filters: forward(x, filters, convolution), filters)(y)
    return result
