"""The reference: ``jax.lax.conv_general_dilated`` with ``feature_group_count``."""

import string
from typing import TYPE_CHECKING

import jax

if TYPE_CHECKING:
    from grouped_conv_jax._convolution import Convolution


def forward(x: jax.Array, filters: jax.Array, convolution: "Convolution") -> jax.Array:
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
