"""Forward pass and input gradient for one channel and one filter per group, as sums in strips."""

import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax._convolution import Convolution, Role, accumulator
from grouped_conv_jax._implementations import parts, phases, shifts, strips, turns

# Of fewer, padding and transposition take longer than the sums gain.
_FEWEST_PRODUCTS = 12_000_000
# With more, 29x29 and 31x31 filters take 0.85 of the time of rows, and eight times as long to
# compile.
_MOST_TERMS = 500
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
    terms = math.prod(convolution.filter_size)
    if planes > 1 or terms > _MOST_TERMS:
        return False
    if not strips.are_enough(
        batch, convolution.groups, convolution.outputs, terms, _FEWEST_PRODUCTS
    ):
        return False
    if terms <= shifts.UNROLLED_WEIGHTS:
        # Sums over groups then skip what lies between strided pixels, and beyond edges.
        larger = map(int.__gt__, convolution.effective_filter_size, convolution.image)
        if max(convolution.strides) > 1 or any(larger):
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
    count_of_strips, zeros = convolution.groups // strips.GROUPS, math.ceil(_zeros(convolution))
    count = parts.divisor_about(count_of_strips, max(2, zeros))
    if math.prod(convolution.filter_size) * count <= _COMPILED_TERMS:
        return count, False
    return parts.divisor_about(count_of_strips, zeros + 1), True


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
        return strips.sum_of_windows(
            strips.split(lax.pad(images, zero, edges)),
            [*jnp.moveaxis(strips.split(vectors), 1, 0)[:, :, None]],
            itertools.product(*shifts.offsets(convolution)),
            convolution.outputs,
            convolution.strides,
        )

    zero = jnp.zeros((), x.dtype)
    if looped:
        stacked = turns.stack(count, lambda part: of_part(part, zero))
        return strips.join(stacked.reshape(-1, *stacked.shape[2:]))
    totals: list[jax.Array] = []
    for part in range(count):
        totals.append(of_part(part, zero))
        # The padded images of one part at a time.
        zero = turns.zero_after(totals[-1]).astype(x.dtype)
    return strips.join(lax.concatenate(totals, 0))


def input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """``x`` ``(B, *image, G)``."""
    return phases.input_gradient(filters, y, convolution, forward)
