"""Filter gradients as a matrix product for each tap."""

import functools
import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax._convolution import Convolution, accumulator
from grouped_conv_jax._implementations import shifts, turns


def of_blocks(x: jax.Array, y: jax.Array, dense: Convolution, count: int) -> Iterator[jax.Array]:
    """For each of ``count`` blocks of channels and filters its filters ``(*filter, C, F)``.

    Each tap has its turn, so that one window at a time is copied. XLA:CPU computes products, other
    than convolutions, at full speed in a loop too. All at once they take up to four times as long.
    """
    channels, filters = x.shape[-1] // count, y.shape[-1] // count
    taps = list(itertools.product(*map(range, dense.filter_size)))
    steps = (slice(None), *(slice(None, None, stride) for stride in dense.strides))

    def add(
        index: int, padding: Sequence[tuple[int, int]], flat: jax.Array, total: jax.Array
    ) -> jax.Array:
        # A window from the whole of x: the blocks of x would be copies.
        window = lax.pad(x, jnp.zeros((), x.dtype), [(*widths, 0) for widths in padding])[steps]
        product = lax.dot_general(
            window.reshape(-1, channels),
            flat,
            (((0,), (0,)), ((), ())),
            precision=dense.precision,
            preferred_element_type=total.dtype,
        )
        return lax.dynamic_update_index_in_dim(total, product, index, 0)

    for block in range(count):
        crop = (-block * channels, (block + 1) * channels - x.shape[-1])
        flat = y[..., block * filters : (block + 1) * filters].reshape(-1, filters)
        gradient = turns.take(
            [
                functools.partial(add, index, [(0, 0), *_padding(tap, dense), crop], flat)
                for index, tap in enumerate(taps)
            ],
            jnp.zeros((len(taps), channels, filters), accumulator(x, y)),
        )
        yield gradient.reshape(*dense.filter_size, channels, filters)


def _padding(tap: Sequence[int], convolution: Convolution) -> list[tuple[int, int]]:
    """How to pad, or where negative to crop, images to what a tap meets, at stride one."""
    result = []
    for i, image, dilation, (before, _), outputs, stride in zip(
        tap,
        convolution.image,
        convolution.dilation,
        convolution.padding,
        convolution.outputs,
        convolution.strides,
        strict=True,
    ):
        start = i * dilation - before
        result.append((-start, start + (outputs - 1) * stride + 1 - image))
    return result


def filter_gradient(x: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """Filters ``(*filter, C, G*F)``, of operands that ``vmap`` maps.

    What ``vmap`` adds joins the groups of the product, which XLA:CPU computes in one go, where it
    would compute block-diagonal convolutions in a loop, and there on one core.
    """
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
            lax.dot_general(
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
