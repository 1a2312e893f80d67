"""Filter gradients that ``vmap`` maps: for each tap a matrix product of every group.

What ``vmap`` adds joins the groups of the product, which XLA:CPU computes in one go, where it would
compute block-diagonal convolutions in a loop, and there on one core without its fast kernels.
"""

import itertools

import jax
import jax.numpy as jnp

from grouped_conv_jax._convolution import Convolution, accumulator
from grouped_conv_jax._implementations import shifts


def filter_gradient(x: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """Filters ``(*filter, C, G*F)``."""
    images = _by_group(shifts.pad(x, convolution.padding), convolution.groups)
    cotangents = _by_group(y, convolution.groups)
    cotangents = cotangents.reshape(convolution.groups, -1, cotangents.shape[-1])
    products = []
    for tap in itertools.product(*map(range, convolution.filter_size)):
        starts = [i * dilation for i, dilation in zip(tap, convolution.dilation, strict=True)]
        window = shifts.window(
            images, [0, *starts], [x.shape[0], *convolution.outputs], [1, *convolution.strides]
        )
        products.append(
            jax.lax.dot_general(
                window.reshape(convolution.groups, -1, window.shape[-1]),
                cotangents,
                (((1,), (1,)), ((0,), (0,))),
                precision=convolution.precision,
                preferred_element_type=accumulator(x, y),
            )
        )
    # (taps, G, C, F) to (*filter, C, G * F)
    stacked = jnp.swapaxes(jnp.stack(products), 1, 2)
    return stacked.reshape(*convolution.filter_size, stacked.shape[1], -1)


def _by_group(array: jax.Array, groups: int) -> jax.Array:
    """``(..., G*C)`` to ``(G, ..., C)``."""
    return jnp.moveaxis(array.reshape(*array.shape[:-1], groups, -1), -2, 0)
