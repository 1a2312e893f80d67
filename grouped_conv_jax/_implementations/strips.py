"""Sums over taps of one channel and one filter per group, in strips of eight groups.

A strip of the sums lies in memory as one image after the other, and in that order XLA computes it:
the rows that it reads fit the first-level cache, and the weights of a turn the registers, however
many groups there are. A transposition joins the strips.
"""

import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax._convolution import Convolution, Role, accumulator
from grouped_conv_jax._implementations import parts, phases, shifts, turns

# Vectors of eight are what XLA:CPU makes of float32, whatever the processor has.
_GROUPS = 8
# With fewer, padding and transposition take longer than the sum gains.
_FEWEST_TERMS = 36
_FEWEST_PRODUCTS = 12_000_000
# With more, 29x29 and 31x31 filters take 0.85 of the time of rows, and eight times as long to
# compile.
_MOST_TERMS = 500
# So many weights, and half of them, stay in registers. With 49 terms at once it takes up to 1.3
# times as long, with 121 up to 1.7, and sums of fewer than 16 LLVM does not always vectorize.
_TERMS_A_TURN = 31
# Of no more terms, in all parts of the groups, turns are compiled, at 2 ms a term; with more, one
# part is, and looped over, which takes 1.05 to 1.5 times as long.
_COMPILED_TERMS = 400


def suits(role: Role, batch: int, planes: int, convolution: Convolution) -> bool:
    """Whether forward pass or input gradient can be computed by this, and is better so.

    Measured on two x86-64 cores with AVX-512, 8 images of 7x7 to 112x112 pixels: filters from 6x6
    to 21x21 take 0.4 to 0.85 of the time of sums whose lanes are all groups or the pixels of rows,
    and 0.35 to 0.65 with a stride; with JAX 0.12 and parts that are looped over 0.7 to 1.2.

    Args:
        role: which of the two.
        batch: number of images.
        planes: per group, of channels times filters.
        convolution: which one.
    """
    if role == Role.INPUT_GRADIENT:
        planes *= math.prod(convolution.strides)
        convolution = phases.as_forward(convolution)
    # An exported program's batch may not be known.
    if planes > 1 or convolution.groups % _GROUPS or not isinstance(batch, int):
        return False
    terms = math.prod(convolution.filter_size)
    if len(convolution.image) > 2 or not _FEWEST_TERMS <= terms <= _MOST_TERMS:
        return False
    if terms <= shifts.UNROLLED_WEIGHTS:
        # Sums over groups then skip what lies between strided pixels, and beyond edges.
        larger = map(int.__gt__, convolution.effective_filter_size, convolution.image)
        if max(convolution.strides) > 1 or any(larger):
            return False
    if batch * math.prod(convolution.outputs) * convolution.groups * terms < _FEWEST_PRODUCTS:
        return False
    count, looped = _parts(convolution)
    return _zeros(convolution) + looped <= count


def _zeros(convolution: Convolution) -> float:
    """How much larger padded images are."""
    return math.prod(convolution.padded) / math.prod(convolution.image)


def _parts(convolution: Convolution) -> tuple[int, bool]:
    """In how many parts the groups are computed, and whether these are looped over.

    The padded images of a part, and in a loop its sum too, are to be no larger than all images.
    """
    strips, zeros = convolution.groups // _GROUPS, math.ceil(_zeros(convolution))
    count = parts.divisor_about(strips, max(2, zeros))
    if math.prod(convolution.filter_size) * count <= _COMPILED_TERMS:
        return count, False
    return parts.divisor_about(strips, zeros + 1), True


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """``y`` ``(B, *outputs, G)``."""
    count, looped = _parts(convolution)
    size = convolution.groups // count
    edges = [(0, 0, 0), *((a, b, 0) for a, b in convolution.padding), (0, 0, 0)]
    weights = filters.astype(accumulator(x, filters)).reshape(-1, convolution.groups)

    def of_part(part: jax.Array | int, zero: jax.Array) -> jax.Array:
        """The sums of some groups, ``(strips, B, *outputs, 8)``."""
        images, vectors = (
            lax.dynamic_slice_in_dim(array, part * size, size, -1) for array in (x, weights)
        )
        return _sum(_strips(lax.pad(images, zero, edges)), _strips(vectors), convolution)

    zero = jnp.zeros((), x.dtype)
    if looped:
        stacked = turns.stack(count, lambda part: of_part(part, zero))
        return _joined(stacked.reshape(-1, *stacked.shape[2:]))
    totals: list[jax.Array] = []
    for part in range(count):
        totals.append(of_part(part, zero))
        # The padded images of one part at a time.
        zero = turns.zero_after(totals[-1]).astype(x.dtype)
    return _joined(lax.concatenate(totals, 0))


def input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """``x`` ``(B, *image, G)``."""
    return phases.input_gradient(filters, y, convolution, forward)


def _strips(array: jax.Array) -> jax.Array:
    """``(..., G)`` to ``(strips, ..., groups of a strip)``."""
    return jnp.moveaxis(array.reshape(*array.shape[:-1], -1, _GROUPS), -2, 0)


def _joined(strips: jax.Array) -> jax.Array:
    """The inverse of :func:`_strips`."""
    joined = jnp.moveaxis(strips, 0, -2)
    return joined.reshape(*joined.shape[:-2], -1)


def _sum(images: jax.Array, weights: jax.Array, convolution: Convolution) -> jax.Array:
    """Over the taps, of windows times vectors.

    Args:
        images: padded, ``(strips, B, *padded, groups of a strip)``.
        weights: ``(strips, taps, groups of a strip)``.
        convolution: which one.
    """
    vectors = jnp.expand_dims(weights, range(2, 3 + len(convolution.image)))
    # The batch is an axis of one tap.
    counts, strides = [images.shape[1], *convolution.outputs], [1, *convolution.strides]
    terms = [
        shifts.window(images, [0, *offset], counts, strides).astype(weights.dtype) * vectors[:, tap]
        for tap, offset in enumerate(itertools.product(*shifts.offsets(convolution)))
    ]
    first, *others = (
        shifts.add_up([[terms[i] for i in turn]])
        for turn in parts.ranges(len(terms), _TERMS_A_TURN)
    )
    total = turns.apart(first)
    for more in others:
        total = turns.apart(total + more)
    return total
