"""Sums over the pixels of an image that has fewer of them, or few more, than the filter has taps.

A convolution is the same sum with its operands exchanged: over the pixels, of the filter as it lies
around each.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from grouped_conv_jax._convolution import Convolution, Role
from grouped_conv_jax._implementations import regions, shifts, strips

# Filters cost little to pad, so sums over few pixels are made in turns too: 0.8 to 3 times as fast,
# and three times as fast to compile.
_UNROLLED_PIXELS = 24
# Products from which on strips take 0.2 to 0.85 of the time of turns: 36 to 400 pixels, 1 to 8
# images, 64 to 1024 groups.
_FEWEST_IN_STRIPS = 1_000_000
# Of more pixels strips of the image take as long: with 1.2 to 1.7 pixels for every tap, those of
# the filter take 0.4 to 1 of the time, with 1.8 1.4 times as long.
_PIXELS_OF_A_TAP = 1.7


def suits(role: Role, batch: int, planes: int, convolution: Convolution, in_strips: bool) -> bool:
    """Whether an image has few pixels for the taps that the filter has, and they may change places.

    In strips there may be more pixels than taps, as nothing is padded but the filter. Otherwise
    there must be fewer, and of many pixels half as many, since their terms cost twice what those of
    large filters do.

    Args:
        role: forward pass or input gradient.
        batch: number of images.
        planes: per group, of channels times filters.
        convolution: which one.
        in_strips: whether strips are allowed.
    """
    dense = set(convolution.strides) == set(convolution.dilation) == {1}
    image, _ = _exchanged(role, convolution)
    pixels, taps = math.prod(image), math.prod(convolution.filter_size)
    stripped = in_strips and _make_strips(role, batch, planes, convolution)
    if stripped:
        return dense and pixels <= _PIXELS_OF_A_TAP * taps
    cost = 1 if pixels <= shifts.UNROLLED_WEIGHTS else 2
    return dense and 0 < cost * pixels < taps


def _exchanged(role: Role, convolution: Convolution) -> tuple[Sequence[int], Sequence[int]]:
    """The sizes of the image whose pixels are summed over, and of the result."""
    if role == Role.INPUT_GRADIENT:
        return convolution.outputs, convolution.image
    return convolution.image, convolution.outputs


def _make_strips(role: Role, batch: int, planes: int, convolution: Convolution) -> bool:
    """Whether the sums can be strips, and are faster so."""
    image, results = _exchanged(role, convolution)
    pixels, groups = math.prod(image), convolution.groups
    if planes > 1 or not strips.are_enough(batch, groups, results, pixels, _FEWEST_IN_STRIPS):
        return False
    # Padded for every window to be within it, the filter may be no larger than filter and images.
    pairs = zip(convolution.filter_size, image, results, strict=True)
    padded = [max(size, along + outputs - 1) for size, along, outputs in pairs]
    copied = math.prod(padded) + strips.looped_copy(image, results, padded)
    return strips.are_pixels(image) and copied <= batch * pixels + math.prod(
        convolution.filter_size
    )


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
    planes = len(by_filter) * len(pixels)
    stripped = in_strips and _make_strips(Role.FORWARD, x.shape[0], planes, convolution)
    return _sums_over_pixels(by_filter, pixels, origins, convolution.outputs, stripped)


def input_gradient(
    filters: jax.Array, y: jax.Array, convolution: Convolution, in_strips: bool
) -> jax.Array:
    """``x`` ``(B, *image, G*C)``, likewise."""
    origins = [before for before, _ in convolution.padding]
    by_channel = shifts.weights(filters, convolution.groups)
    pixels = shifts.planes(y, convolution.groups)
    planes = len(by_channel) * len(pixels)
    stripped = in_strips and _make_strips(Role.INPUT_GRADIENT, y.shape[0], planes, convolution)
    return _sums_over_pixels(by_channel, pixels, origins, convolution.image, stripped)


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
        in_strips: whether they are; then there is one plane.
    """
    terms = [
        [regions.Shift(i, origin - i) for i in range(size)]
        for origin, size in zip(origins, pixels[0].shape[1:-1], strict=True)
    ]
    strides = [1] * len(counts)
    if in_strips:
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
    strides = [1] * len(counts)
    padding, axes = zip(*map(shifts.whole, plane.shape, terms, counts, strides), strict=True)
    images = strips.copy(shifts.pad(plane[None], padding))
    starts = [[shift.start for shift in axis.shifts] for axis in axes]
    return strips.join(strips.sum_over_pixels(images, pixels, starts, counts, strides))
