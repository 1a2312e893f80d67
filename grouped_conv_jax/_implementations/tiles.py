"""Filter gradients of few taps: tiles of outputs are added up, for all taps in one loop.

The taps are its innermost axes but the lanes, so that what is read for one tap is in the
first-level cache for all others.
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax._convolution import Convolution, accumulator
from grouped_conv_jax._implementations import parts, regions, shifts

# Of no more taps. Measured with 3x3 filters, 8 images of 7x7 to 112x112 pixels and 32 to 960
# channels, against sums of rows: 0.4 to 0.8 of the time; with 5x5 filters 0.7 to 0.9, and three
# times the time where the loop gets too large for LLVM to vectorize it.
_FEW_TAPS = 12
# Outputs of a tile along the last axis, all of them if they are not too many, and in all.
_WHOLE_ROW, _TILE_COLUMNS, _TILE = 28, 16, 14
# Of more lanes than this a tile has blocks, for what all taps of one read to fit the first-level
# cache: 0.7 to 1 of the time. Lanes that no block divides stay together.
_LANES_TOGETHER, _BLOCK_LANES, _VECTOR_LANES = 128, 64, 8
# XLA:CPU does not fuse a concatenation of more arrays than this with what computes them.
_MOST_FUSED = 8


def suits(convolution: Convolution) -> bool:
    """Whether the taps are few enough, and the outputs enough."""
    # Of fewer outputs than taps the sums would be larger than the image.
    most = min(_FEW_TAPS, math.prod(_tile(convolution.outputs)))
    return math.prod(convolution.filter_size) <= most


def correlate(image: jax.Array, cotangent: jax.Array, convolution: Convolution) -> jax.Array:
    """``(*filter, G)``: for each tap the sum over batch and outputs of window times cotangent.

    Args:
        image: ``(B, *image, G)``.
        cotangent: ``(B, *outputs, G)``.
        convolution: of which this is the filter gradient.
    """
    rank = len(convolution.image)
    dtype = accumulator(image, cotangent)
    lanes = _block(image.shape[-1])
    blocks = image.shape[-1] // lanes
    # Blocks of lanes are an axis like the spatial ones, of one tap.
    image = image.reshape(*image.shape[:-1], blocks, lanes)
    cotangent = cotangent.reshape(*cotangent.shape[:-1], blocks, lanes)
    whole = regions.Region(0, blocks, (regions.Shift(0, 0),))
    tile = [*_tile(convolution.outputs), 1]
    steps = [n * stride for n, stride in zip(tile, (*convolution.strides, 1), strict=True)]

    def product(terms: Sequence[regions.Shift], chosen: Sequence[regions.Region]) -> jax.Array:
        sizes = [region.count for region in chosen]
        starts = [
            term.start + region.start * step
            for term, region, step in zip(terms, chosen, steps, strict=True)
        ]
        met = [
            (term.weight or 0) + region.start * n
            for term, region, n in zip(terms, chosen, tile, strict=True)
        ]
        window = shifts.window(image, starts, sizes, steps)
        return window.astype(dtype) * shifts.window(cotangent, met, sizes, tile).astype(dtype)

    def total(chosen: list[regions.Region]) -> jax.Array:
        """The sum over one region of each axis."""
        if all(region.shifts for region in chosen):
            terms = itertools.product(*(region.shifts for region in chosen))
            return shifts.add_up([[product(term, chosen) for term in terms]])
        return jnp.zeros((image.shape[0], *(region.count for region in chosen), lanes), dtype)

    def of_tap(tap: Sequence[int]) -> jax.Array:
        axes = []
        for axis, i in enumerate(tap):
            stride, n, outputs = convolution.strides[axis], tile[axis], convolution.outputs[axis]
            origin = i * convolution.dilation[axis] - convolution.padding[axis][0]
            terms = [regions.Shift(t, origin + t * stride) for t in range(n)]
            # The last tile may be a part of one.
            ends = [-(-(outputs - t) // n) for t in range(n)]
            size = convolution.image[axis]
            axes.append(regions.divide(size, terms, ends[0], steps[axis], ends))
        return regions.concatenate([*axes, [whole]], total, 1)

    def stacked(taps: Sequence[range], tap: tuple[int, ...]) -> jax.Array:
        """With an axis for each axis of the filter, before that of the lanes."""
        axis = len(tap)
        if axis == rank:
            return jnp.expand_dims(of_tap(tap), range(2 + rank, 2 + 2 * rank))
        return lax.concatenate([stacked(taps, (*tap, i)) for i in taps[axis]], 2 + rank + axis)

    def joined(taps: list[range]) -> jax.Array:
        axis = len(taps)
        if axis == rank:
            return stacked(taps, ()).sum(range(1 + rank))
        some = parts.ranges(convolution.filter_size[axis], _MOST_FUSED)
        return jnp.concatenate([joined([*taps, part]) for part in some], 1 + axis)

    # (blocks, *filter, lanes) to (*filter, G)
    return jnp.moveaxis(joined([]), 0, -2).reshape(*convolution.filter_size, -1)


def _tile(outputs: Sequence[int]) -> list[int]:
    """How many outputs are added up at once along each axis."""
    *others, columns = outputs
    most = columns if columns <= _WHOLE_ROW else _TILE_COLUMNS
    tile = [1] * len(others)
    tile.append(max(map(len, parts.ranges(columns, most))))
    if others:
        tile[-2] = min(others[-1], max(1, _TILE // tile[-1]))
    return tile


def _block(lanes: int) -> int:
    """Of how many lanes a block is."""
    if lanes <= _LANES_TOGETHER:
        return lanes
    sizes = range(_BLOCK_LANES, _BLOCK_LANES // 2 - 1, -_VECTOR_LANES)
    return next((size for size in sizes if lanes % size == 0), lanes)
