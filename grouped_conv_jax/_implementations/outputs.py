"""Filter gradients as sums over the outputs, in strips of eight groups.

The gradient is a convolution of the padded image in which the cotangents take the place of the
weights: those of a turn stay in registers while a sum goes over the taps.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax._convolution import Convolution, accumulator
from grouped_conv_jax._implementations import parts, shifts, strips, turns

# Filters of fewer taps take 0.7 to 1.2 of the time.
_FEWEST_TAPS = 100
# Of fewer products in all it takes as long.
_FEWEST_PRODUCTS = 1_000_000
# A loop over rows that adds up to less takes 1.2 to 1.4 times as long.
_FEWEST_LOOPED_BYTES = 400_000


def suits(batch: int, convolution: Convolution) -> bool:
    """Whether the filter gradient can be computed by this, and is better so.

    Measured on two x86-64 cores with AVX-512, 8 images of 7x7 to 56x56 pixels: filters from 13x13
    to 31x31 take 0.12 to 0.2 of the time of sums of rows, 15x15 with a stride 0.15 to
    0.6.

    Args:
        batch: number of images.
        convolution: of one channel and one filter per group.
    """
    return _images_a_turn(batch, convolution) > 0


def _images_a_turn(batch: int, convolution: Convolution) -> int:
    """How many images are summed up at once, each to filters of its own, or 0."""
    filter_size, sizes = convolution.filter_size, convolution.outputs
    outputs, taps, groups = math.prod(sizes), math.prod(filter_size), convolution.groups
    if taps < _FEWEST_TAPS or not strips.are_pixels(sizes):
        return 0
    if not strips.are_enough(batch, groups, filter_size, outputs, _FEWEST_PRODUCTS):
        return 0
    looped = strips.looped_copy(sizes, convolution.effective_filter_size, convolution.padded)
    # Of more images than one there are to be copies no larger than inputs and outputs.
    copied = math.prod(convolution.padded) + taps + looped
    most = (batch * (math.prod(convolution.image) + outputs) + taps) // copied
    few = [n for n in parts.divisors(batch) if n <= max(1, most)]
    added = 4 * taps * groups
    count = next((n for n in few if n * added >= turns.PARALLEL_BYTES), few[-1])
    return 0 if looped and count * added < _FEWEST_LOOPED_BYTES else count


def correlate(image: jax.Array, cotangent: jax.Array, convolution: Convolution) -> jax.Array:
    """``(*filter, G)``: for each tap the sum over batch and outputs of window times cotangent.

    Args:
        image: ``(B, *image, G)``.
        cotangent: ``(B, *outputs, G)``.
        convolution: of which this is the filter gradient.
    """
    batch, filter_size = image.shape[0], convolution.filter_size
    count = _images_a_turn(batch, convolution)
    starts = [
        [output * stride for output in range(outputs)]
        for outputs, stride in zip(convolution.outputs, convolution.strides, strict=True)
    ]

    def add_images(turn: jax.Array, total: jax.Array) -> jax.Array:
        some, pixels = (
            lax.dynamic_slice_in_dim(array, turn * count, count, 0) for array in (image, cotangent)
        )
        images = strips.copy(shifts.pad(some, convolution.padding))
        return strips.sum_over_pixels(
            images, pixels, starts, filter_size, convolution.dilation, total
        )

    filters = jnp.zeros((count, *filter_size, convolution.groups), accumulator(image, cotangent))
    total = turns.repeat(batch // count, add_images, strips.split(filters))
    return strips.join(total.sum(1))
