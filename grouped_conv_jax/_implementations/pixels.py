"""Sums over the pixels of an image that has fewer of them than the filter has taps.

A convolution is the same sum with its operands exchanged: over the pixels, of the filter as it lies
around each.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from grouped_conv_jax._convolution import Convolution
from grouped_conv_jax._implementations import regions, shifts

# Filters cost little to pad, so sums over few pixels are made in turns too: 0.8 to 3 times as fast,
# and three times as fast to compile.
_UNROLLED_PIXELS = 24


def suits(convolution: Convolution, image: tuple[int, ...]) -> bool:
    """Whether an image has fewer pixels than the filter has taps, and the two may change places.

    Of many pixels there must be half as many, since their terms cost twice what those of large
    filters do.
    """
    dense = set(convolution.strides) == set(convolution.dilation) == {1}
    pixels, taps = math.prod(image), math.prod(convolution.filter_size)
    cost = 1 if pixels <= shifts.UNROLLED_WEIGHTS else 2
    return dense and 0 < cost * pixels < taps


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """``y`` ``(B, *outputs, G*F)``."""
    # Output o meets pixel i at tap i - o + before, of the flipped filter size - 1 - i + o - before.
    origins = [
        size - 1 - before
        for size, (before, _) in zip(convolution.filter_size, convolution.padding, strict=True)
    ]
    flipped = jnp.flip(filters, range(len(origins)))
    by_filter = list(zip(*shifts.weights(flipped, convolution.groups), strict=True))
    pixels = shifts.planes(x, convolution.groups)
    return _sums_over_pixels(by_filter, pixels, origins, convolution.outputs)


def input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """``x`` ``(B, *image, G*C)``."""
    origins = [before for before, _ in convolution.padding]
    by_channel = shifts.weights(filters, convolution.groups)
    pixels = shifts.planes(y, convolution.groups)
    return _sums_over_pixels(by_channel, pixels, origins, convolution.image)


def _sums_over_pixels(
    windows: Sequence[Sequence[jax.Array]],
    pixels: Sequence[jax.Array],
    origins: Sequence[int],
    counts: Sequence[int],
) -> jax.Array:
    """Adds up windows of filters, each times a pixel.

    Args:
        windows: for each channel of the result, planes of filters ``(*filter, G)``.
        pixels: for each of the planes an array ``(B, *image, G)``.
        origins: where the window of the first pixel starts, along each axis; that of the next
            starts one before it.
        counts: the window's size along each axis.
    """
    terms = [
        [regions.Shift(i, origin - i) for i in range(size)]
        for origin, size in zip(origins, pixels[0].shape[1:-1], strict=True)
    ]
    strides = [1] * len(counts)
    return shifts.join(
        [
            shifts.sum_of_shifts(
                [plane[None] for plane in planes],
                pixels,
                terms,
                counts,
                strides,
                len(windows),
                _UNROLLED_PIXELS,
            )
            for planes in windows
        ]
    )
