"""Filter gradients for few channels per group: a product and a sum for each tap."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax._convolution import Convolution, accumulator
from grouped_conv_jax._implementations import shifts


def correlate(image: jax.Array, cotangent: jax.Array, convolution: Convolution) -> jax.Array:
    """``(*filter, G)``: for each tap the sum over batch and outputs of window times cotangent.

    One row of outputs at a time, into one accumulator a tap: XLA:CPU vectorizes a sum of arrays,
    but not a reduction of a product. Of large filters, one row of taps at a time.
    """
    if (
        math.prod(convolution.filter_size) > shifts.UNROLLED_TERMS
        and convolution.filter_size[0] > 1
    ):
        return _correlate_by_rows(image, cotangent, convolution)
    dtype = accumulator(image, cotangent)
    taps = list(itertools.product(*map(range, convolution.filter_size)))
    rest = convolution.outputs[1:]
    extent = convolution.effective_filter_size[0]

    def add(row: jax.Array, totals: list[jax.Array]) -> list[jax.Array]:
        rows = lax.dynamic_slice_in_dim(image, row * convolution.strides[0], extent, 1)
        outputs = lax.dynamic_slice_in_dim(cotangent, row, 1, 1)
        rows, outputs = lax.optimization_barrier((rows, outputs))
        return [
            total
            + shifts.window(
                rows,
                [i * d for i, d in zip(tap, convolution.dilation, strict=True)],
                (1, *rest),
                (1, *convolution.strides[1:]),
            ).astype(dtype)
            * outputs.astype(dtype)
            for total, tap in zip(totals, taps, strict=True)
        ]

    zeros = jnp.zeros((cotangent.shape[0], 1, *cotangent.shape[2:]), dtype)
    totals = lax.fori_loop(0, convolution.outputs[0], add, [zeros] * len(taps))
    sums = [total.sum(tuple(range(total.ndim - 1))) for total in totals]
    return jnp.stack(sums).reshape(*convolution.filter_size, -1)


def _correlate_by_rows(
    image: jax.Array, cotangent: jax.Array, convolution: Convolution
) -> jax.Array:
    """The same, for each row of taps from the rows of the image that it meets."""
    size = ((convolution.outputs[0] - 1) * convolution.strides[0] + 1, *convolution.padded[1:])
    row = dataclasses.replace(
        convolution,
        image=size,
        filter_size=(1, *convolution.filter_size[1:]),
        padding=((0, 0),) * len(size),
    )

    def of_row(start: jax.Array) -> jax.Array:
        return correlate(lax.dynamic_slice_in_dim(image, start, size[0], 1), cotangent, row)

    starts = jnp.arange(convolution.filter_size[0]) * convolution.dilation[0]
    return lax.map(of_row, starts)[:, 0]
