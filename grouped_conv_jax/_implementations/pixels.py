"""Sums over the pixels of an image that has fewer of them than the filter has taps.

A convolution is the same sum with its operands exchanged: over the pixels, of the filter as it lies
around each.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax._convolution import Convolution
from grouped_conv_jax._implementations import shifts


def suits(convolution: Convolution, image: tuple[int, ...]) -> bool:
    """Whether an image has fewer pixels than the filter has taps, and the two may change places."""
    dense = set(convolution.strides) == set(convolution.dilation) == {1}
    return dense and 0 < math.prod(image) < math.prod(convolution.filter_size)


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """``y`` ``(B, *outputs, G*F)``."""
    flipped = jnp.flip(filters, range(len(convolution.image)))
    padding = [
        (image + before - size, image + after - size)
        for image, size, (before, after) in zip(
            convolution.image, convolution.filter_size, convolution.padding, strict=True
        )
    ]
    by_filter = zip(
        *shifts.weights(_pad_filters(flipped, padding), convolution.groups), strict=True
    )
    pixels = shifts.planes(x, convolution.groups)
    return shifts.join(
        [_sum_over_pixels(windows, pixels, convolution.outputs) for windows in by_filter]
    )


def input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """``x`` ``(B, *image, G*C)``."""
    padding = [
        (outputs - 1 - before, before + image - size)
        for outputs, image, size, (before, _) in zip(
            convolution.outputs,
            convolution.image,
            convolution.filter_size,
            convolution.padding,
            strict=True,
        )
    ]
    by_channel = shifts.weights(_pad_filters(filters, padding), convolution.groups)
    pixels = shifts.planes(y, convolution.groups)
    return shifts.join(
        [_sum_over_pixels(windows, pixels, convolution.image) for windows in by_channel]
    )


def _pad_filters(filters: jax.Array, padding: Sequence[tuple[int, int]]) -> jax.Array:
    """Zeros around the taps; negative widths crop."""
    zero = jnp.zeros((), filters.dtype)
    return lax.pad(filters, zero, [*((a, b, 0) for a, b in padding), (0, 0, 0), (0, 0, 0)])


def _sum_over_pixels(
    windows: Sequence[jax.Array], pixels: Sequence[jax.Array], counts: Sequence[int]
) -> jax.Array:
    """Adds up windows of filters, each times a pixel.

    Args:
        windows: padded arrays ``(*filter, G)``; that of the last pixel is at the start.
        pixels: for each an array ``(B, *image, G)``.
        counts: the window's size along each axis.
    """
    terms = [[shifts.Shift(i, size - 1 - i) for i in range(size)] for size in pixels[0].shape[1:-1]]
    images = [window[None] for window in windows]
    return shifts.sum_of_shifts(images, pixels, terms, counts, [1] * len(counts))
