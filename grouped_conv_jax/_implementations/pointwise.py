"""Dense convolutions with 1x1 filters as the matrix products that XLA:CPU does not see in them."""

import math

import jax
import jax.numpy as jnp

from grouped_conv_jax._convolution import Convolution, accumulator

# Longer sums are made of parts that are not shorter than this, which halves their errors.
_LONG_SUM = 128


def suits(convolution: Convolution) -> bool:
    """Whether all that each pixel of the output depends on is one pixel of the input."""
    return set(convolution.filter_size) == {1} and not any(map(any, convolution.padding))


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """``y`` ``(B, *outputs, F)`` of filters ``(*filter, C, F)``."""
    pixels = _strided(x, convolution)
    return jax.lax.dot_general(
        pixels,
        filters.reshape(filters.shape[-2:]),
        (((x.ndim - 1,), (0,)), ((), ())),
        precision=convolution.precision,
        preferred_element_type=convolution.preferred_element_type or accumulator(x, filters),
    )


def input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """``x`` ``(B, *image, C)``."""
    pixels = jax.lax.dot_general(
        y,
        filters.reshape(filters.shape[-2:]),
        (((y.ndim - 1,), (1,)), ((), ())),
        precision=convolution.precision,
        preferred_element_type=accumulator(filters, y),
    )
    spread = [
        (0, image - (outputs - 1) * stride - 1, stride - 1)
        for image, outputs, stride in zip(
            convolution.image, convolution.outputs, convolution.strides, strict=True
        )
    ]
    zero = jnp.zeros((), pixels.dtype)
    return jax.lax.pad(pixels, zero, [(0, 0, 0), *spread, (0, 0, 0)])


def filter_gradient(x: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """Filters ``(*filter, C, F)``."""
    pixels = _strided(x, convolution)
    parts = _parts(y.shape[0], math.prod(convolution.outputs))
    products = jax.lax.dot_general(
        pixels.reshape(parts, -1, x.shape[-1]),
        y.reshape(parts, -1, y.shape[-1]),
        (((1,), (1,)), ((0,), (0,))),
        precision=convolution.precision,
        preferred_element_type=accumulator(x, y),
    )
    return products.sum(0).reshape(*convolution.filter_size, x.shape[-1], y.shape[-1])


def _strided(x: jax.Array, convolution: Convolution) -> jax.Array:
    steps = (slice(None, None, stride) for stride in convolution.strides)
    return x[(slice(None), *steps)]


def _parts(batch: int, pixels: int) -> int:
    """Into how many parts the images are divided."""
    if not isinstance(batch, int) or not isinstance(pixels, int):
        # An exported program's sizes may not be known.
        return 1
    return max(
        n
        for n in range(1, batch + 1)
        if n == 1 or (batch % n == 0 and batch // n * pixels >= _LONG_SUM)
    )
