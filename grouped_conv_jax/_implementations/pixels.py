"""Sums over the pixels of an image that has fewer of them than the filter has taps.

A convolution is the same sum with its operands exchanged: over the pixels, of the filter as it lies
around each.
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from grouped_conv_jax._convolution import Convolution, accumulator
from grouped_conv_jax._implementations import regions, shifts, strips, turns

# Filters cost little to pad, so sums over few pixels are made in turns too: 0.8 to 3 times as fast,
# and three times as fast to compile.
_UNROLLED_PIXELS = 24
# Products from which on strips take 0.2 to 0.85 of the time of turns: 36 to 400 pixels, 1 to 8
# images, 64 to 1024 groups.
_FEWEST_IN_STRIPS = 1_000_000


def suits(convolution: Convolution, image: tuple[int, ...]) -> bool:
    """Whether an image has fewer pixels than the filter has taps, and the two may change places.

    Of many pixels there must be half as many, since their terms cost twice what those of large
    filters do.
    """
    dense = set(convolution.strides) == set(convolution.dilation) == {1}
    pixels, taps = math.prod(image), math.prod(convolution.filter_size)
    cost = 1 if pixels <= shifts.UNROLLED_WEIGHTS else 2
    return dense and 0 < cost * pixels < taps


def forward(
    x: jax.Array, filters: jax.Array, convolution: Convolution, in_strips: bool
) -> jax.Array:
    """``y`` ``(B, *outputs, G*F)``; in strips where they serve, if they are allowed."""
    # Output o meets pixel i at tap i - o + before, of the flipped filter size - 1 - i + o - before.
    origins = [
        size - 1 - before
        for size, (before, _) in zip(convolution.filter_size, convolution.padding, strict=True)
    ]
    flipped = jnp.flip(filters, range(len(origins)))
    by_filter = list(zip(*shifts.weights(flipped, convolution.groups), strict=True))
    pixels = shifts.planes(x, convolution.groups)
    return _sums_over_pixels(by_filter, pixels, origins, convolution.outputs, in_strips)


def input_gradient(
    filters: jax.Array, y: jax.Array, convolution: Convolution, in_strips: bool
) -> jax.Array:
    """``x`` ``(B, *image, G*C)``, likewise."""
    origins = [before for before, _ in convolution.padding]
    by_channel = shifts.weights(filters, convolution.groups)
    pixels = shifts.planes(y, convolution.groups)
    return _sums_over_pixels(by_channel, pixels, origins, convolution.image, in_strips)


def _sums_over_pixels(
    windows: Sequence[Sequence[jax.Array]],
    pixels: Sequence[jax.Array],
    origins: Sequence[int],
    counts: Sequence[int],
    in_strips: bool,
) -> jax.Array:
    """Adds up windows of filters, each times a pixel.

    Args:
        windows: for each channel of the result, planes of filters ``(*filter, G)``.
        pixels: for each of the planes an array ``(B, *image, G)``.
        origins: where the window of the first pixel starts, along each axis; that of the next
            starts one before it.
        counts: the window's size along each axis.
        in_strips: whether they may be sums in strips.
    """
    terms = [
        [regions.Shift(i, origin - i) for i in range(size)]
        for origin, size in zip(origins, pixels[0].shape[1:-1], strict=True)
    ]
    strides = [1] * len(counts)
    batch, *image, groups = pixels[0].shape
    enough = strips.are_enough(batch, groups, counts, math.prod(image), _FEWEST_IN_STRIPS)
    if in_strips and enough and len(windows) * len(pixels) == 1:
        return _sum_in_strips(windows[0][0], pixels[0], terms, counts)
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


def _sum_in_strips(
    plane: jax.Array,
    pixels: jax.Array,
    terms: Sequence[Sequence[regions.Shift]],
    counts: Sequence[int],
) -> jax.Array:
    """As :func:`_sums_over_pixels`, of one plane and one array of pixels.

    A strip of the filter fits the first-level cache, and the pixels of a turn the registers.
    """
    strides, dtype = [1] * len(counts), accumulator(plane, pixels)
    padding, axes = zip(*map(shifts.whole, plane.shape, terms, counts, strides), strict=True)
    # What of a filter one strip reads would otherwise fall into a few sets of the cache.
    images = strips.split(shifts.pad(plane[None], padding))
    # With axes joined that were not neighbours it is one copy, with them apart two.
    images = turns.apart(images.reshape(-1, images.shape[-1])).reshape(images.shape)
    places = itertools.product(*map(range, pixels.shape[1:-1]))
    vectors = [strips.split(pixels[:, *place]).astype(dtype) for place in places]
    starts = itertools.product(*([shift.start for shift in axis.shifts] for axis in axes))
    return strips.join(strips.sum_of_windows(images, vectors, starts, counts, strides))
