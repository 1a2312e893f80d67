"""Filter gradients as matrix products of gathered windows."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax._convolution import Convolution, accumulator
from grouped_conv_jax._implementations import parts, shifts

# Windows of as many images at a time as have no more bytes than this. 2 to 8 MB take about as long;
# more take up to twice as long, for want of cache and of memory that the program holds already.
_WINDOW_BYTES = 4 << 20
# And no more than this share of what the operands have.
_WINDOW_SHARE = 0.75
# Of more taps, or if one image has more bytes of windows, those of one row of the filter at a time.
_MOST_TAPS = 64


def of_blocks(x: jax.Array, y: jax.Array, convolution: Convolution, merged: int) -> jax.Array:
    """Filters ``(*filter, C, G*F)``: the diagonal of products of ``merged`` groups at a time.

    XLA:CPU computes a product at full speed in a loop too, where a convolution would run on one
    core. So blocks of groups, and a few images of each, take turns in one loop, which compiles
    once and holds the windows of one turn. Unrolled, with the windows of all in memory, the same
    products take up to four times as long.

    Args:
        x: ``(B, *image, G*C)``.
        y: ``(B, *outputs, G*F)``.
        convolution: of which this is the filter gradient.
        merged: groups of a block, which divides theirs.
    """
    dtype = accumulator(x, y)
    blocks = convolution.groups // merged
    channels, filters = x.shape[-1] // blocks, y.shape[-1] // blocks
    size, batch = convolution.filter_size, x.shape[0]
    rows, images = _turn(x, y, convolution, channels)
    taps = math.prod(size[1:]) * rows
    chunks = batch // images

    def of_turn(array: jax.Array, chunk: jax.Array, block: jax.Array, width: int) -> jax.Array:
        part = lax.dynamic_slice_in_dim(array, block * width, width, -1)
        return part if chunks == 1 else lax.dynamic_slice_in_dim(part, chunk * images, images, 0)

    def windows(image: jax.Array, tap: tuple[int, ...]) -> jax.Array:
        """``(B, *outputs, *taps, C)``, with an axis for each of the filter's."""
        axis = len(tap)
        if axis == len(size):
            starts = [i * dilation for i, dilation in zip(tap, convolution.dilation, strict=True)]
            window = shifts.window(image, starts, convolution.outputs, convolution.strides)
            return window.astype(dtype)
        count = size[axis] if axis else rows
        return jnp.stack([windows(image, (*tap, i)) for i in range(count)], len(size) + 1)

    extent = (convolution.outputs[0] - 1) * convolution.strides[0] + 1
    extent += (rows - 1) * convolution.dilation[0]

    def add(turn: jax.Array, gradient: jax.Array) -> jax.Array:
        block, chunk = turn // chunks, turn % chunks
        image = shifts.pad(of_turn(x, chunk, block, channels), convolution.padding)
        cotangent = of_turn(y, chunk, block, filters).reshape(-1, filters).astype(dtype)

        def add_rows(turn: jax.Array, gradient: jax.Array) -> jax.Array:
            row = turn * rows
            met = image
            if rows < size[0]:
                met = lax.dynamic_slice_in_dim(image, row * convolution.dilation[0], extent, 1)
            product = lax.dot_general(
                windows(met, ()).reshape(-1, taps * channels),
                cotangent,
                (((0,), (0,)), ((), ())),
                precision=convolution.precision,
            )
            own = diagonal(product.reshape(rows, *size[1:], channels, filters), merged)
            starts: list[jax.Array | int] = [row, *[0] * len(size), block * filters]
            before = lax.dynamic_slice(gradient, starts, own.shape)
            return lax.dynamic_update_slice(gradient, before + own, starts)

        return lax.fori_loop(0, size[0] // rows, add_rows, gradient)

    whole = (*size, channels // merged, y.shape[-1])
    return lax.fori_loop(0, blocks * chunks, add, jnp.zeros(whole, dtype))


def diagonal(gradient: jax.Array, merged: int) -> jax.Array:
    """``(*filter, merged*C, merged*F)`` to each group's own ``(*filter, C, merged*F)``."""
    *size, channels, filters = gradient.shape
    groups = gradient.reshape(*size, merged, channels // merged, merged, filters // merged)
    own = jnp.diagonal(groups, axis1=-4, axis2=-2)  # (*filter, C, F, merged)
    return jnp.swapaxes(own, -1, -2).reshape(*size, channels // merged, filters)


def _turn(x: jax.Array, y: jax.Array, convolution: Convolution, channels: int) -> tuple[int, int]:
    """How many rows of the filter, and how many images, a turn computes."""
    tap_bytes = math.prod(convolution.outputs) * channels * accumulator(x, y).itemsize
    taps, row_taps = math.prod(convolution.filter_size), math.prod(convolution.filter_size[1:])
    batch = x.shape[0]
    # An exported program's batch may not be known.
    known = isinstance(batch, int)
    most = min(_WINDOW_BYTES, _WINDOW_SHARE * (x.nbytes + y.nbytes)) if known else _WINDOW_BYTES
    rows = convolution.filter_size[0] if taps <= min(_MOST_TAPS, most / tap_bytes) else 1
    return rows, parts.divisor_up_to(
        batch, most / tap_bytes / (row_taps * rows)
    ) if known else batch
