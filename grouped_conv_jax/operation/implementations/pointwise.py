"""Dense convolutions with 1x1 filters as matrix products, to which XLA:CPU fails to lower them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from grouped_conv_jax.operation._description import Convolution, accumulator


def suits(convolution: Convolution) -> bool:
    """Whether every output depends on one pixel of the image."""
    return set(convolution.filter_size) == {1} and not any(map(any, convolution.padding))


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """``y`` ``(B, *outputs, F)`` of filters ``(*filter, C, F)``."""
    matrix = filters.reshape(filters.shape[-2:])
    return _contract(_strided(x, convolution), matrix, [x.ndim - 1], [0], convolution)


def input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """``x`` ``(B, *image, C)``, zero at the pixels that the stride skips."""
    matrix = filters.reshape(filters.shape[-2:])
    pixels = _contract(y, matrix, [y.ndim - 1], [1], convolution)
    edges = [
        (0, image - (outputs - 1) * stride - 1, stride - 1)
        for image, outputs, stride in zip(
            convolution.image, convolution.outputs, convolution.strides, strict=True
        )
    ]
    return jax.lax.pad(pixels, jnp.zeros((), pixels.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


def filter_gradient(x: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """Filters ``(*filter, C, F)``."""
    pixels = range(y.ndim - 1)
    product = _contract(_strided(x, convolution), y, pixels, pixels, convolution)
    return product.reshape(*convolution.filter_size, *product.shape)


def _strided(x: jax.Array, convolution: Convolution) -> jax.Array:
    """The pixels of ``(B, *image, C)`` that outputs depend on."""
    return x[(slice(None), *(slice(None, None, stride) for stride in convolution.strides))]


def _contract(
    lhs: jax.Array,
    rhs: jax.Array,
    lhs_axes: Sequence[int],
    rhs_axes: Sequence[int],
    convolution: Convolution,
) -> jax.Array:
    return jax.lax.dot_general(
        lhs,
        rhs,
        ((lhs_axes, rhs_axes), ((), ())),
        precision=convolution.precision,
        preferred_element_type=convolution.preferred_element_type or accumulator(lhs, rhs),
    )
