"""Dense convolutions with 1x1 filters as the matrix products that XLA:CPU does not see in them."""

import functools
import operator

import jax
import jax.numpy as jnp

from grouped_conv_jax._convolution import Convolution, accumulator
from grouped_conv_jax._implementations import parts

# XLA:CPU adds up a few hundred products one by one. Of up to so many pixels the filter gradient's
# largest errors are then up to 2.8 times those of lax's grouped convolution; of sums of fewer, up
# to 1.5 times, and it takes 1 to 1.3 times as long.
_FEW_PIXELS, _PIXELS_OF_A_SUM = 512, 128


def suits(convolution: Convolution) -> bool:
    """Whether all that each pixel of the output depends on is one pixel of the input."""
    return set(convolution.filter_size) == {1} and not any(map(any, convolution.padding))


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """``y`` ``(B, *outputs, F)`` of filters ``(*filter, C, F)``."""
    pixels = strided(x, convolution)
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
    return spread(pixels, convolution)


def filter_gradient(x: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """Filters ``(*filter, C, F)``."""
    pixels = strided(x, convolution).reshape(-1, x.shape[-1])
    cotangents = y.reshape(-1, y.shape[-1])

    def product(part: range | None) -> jax.Array:
        return jax.lax.dot_general(
            pixels if part is None else pixels[part.start : part.stop],
            cotangents if part is None else cotangents[part.start : part.stop],
            (((0,), (0,)), ((), ())),
            precision=convolution.precision,
            preferred_element_type=accumulator(x, y),
        )

    count = pixels.shape[0]
    # An exported program's batch may not be known.
    few = isinstance(count, int) and 0 < count <= _FEW_PIXELS
    sums = parts.ranges(count, _PIXELS_OF_A_SUM) if few else [None]
    total = functools.reduce(operator.add, map(product, sums))
    return total.reshape(*convolution.filter_size, *total.shape)


def strided(x: jax.Array, convolution: Convolution) -> jax.Array:
    """The pixels of ``(B, *image, C)`` that outputs depend on, ``(B, *outputs, C)``."""
    steps = (slice(None, None, stride) for stride in convolution.strides)
    return x[(slice(None), *steps)]


def spread(pixels: jax.Array, convolution: Convolution) -> jax.Array:
    """``(B, *outputs, C)`` where :func:`strided` takes them from, zeros elsewhere."""
    edges = [
        (0, image - (outputs - 1) * stride - 1, stride - 1)
        for image, outputs, stride in zip(
            convolution.image, convolution.outputs, convolution.strides, strict=True
        )
    ]
    zero = jnp.zeros((), pixels.dtype)
    return jax.lax.pad(pixels, zero, [(0, 0, 0), *edges, (0, 0, 0)])
