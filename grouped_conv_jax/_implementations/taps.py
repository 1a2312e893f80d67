"""Shift and add: a sum over the filter's taps of shifted images, its lanes over the groups.

With few channels per group there is too little to sum for a matrix product. What remains is bound
by memory, and XLA fuses the whole sum into one loop over data whose minor axis, the groups, is
contiguous.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax._convolution import Convolution, Role, accumulator
from grouped_conv_jax._implementations import (
    correlations,
    outputs,
    parts,
    phases,
    pixels,
    regions,
    rows,
    shifts,
    strips_of_taps,
    turns,
)

_FEW = 16
# Parts of the groups, one after the other, of sums in turns: padded images and sum of all at
# once would be larger than inputs and outputs. It takes 0.7 to 1.3 times as long.
_PARTS = 2


def unsupported(role: Role, convolution: Convolution, channels: int, filters: int) -> str | None:
    """Why this implementation cannot compute ``role``, or ``None``."""
    del role
    if channels * filters > _FEW:
        return (
            f"sums over taps serve at most {_FEW} channels times filters per group, "
            f"got {channels} * {filters}"
        )
    if not all(isinstance(size, int) for size in convolution.image):
        return f"the image's size must be known, got {convolution.image}"
    return None


def forward(
    x: jax.Array, filters: jax.Array, convolution: Convolution, in_strips: bool = True
) -> jax.Array:
    """``y`` ``(B, *outputs, G*F)``; in strips, where they serve, is for XLA:CPU alone."""
    channels, planes = filters.shape[-2], math.prod(filters.shape[-2:]) // convolution.groups
    if pixels.suits(Role.FORWARD, x.shape[0], planes, convolution, in_strips):
        return pixels.forward(x, filters, convolution, in_strips)
    if in_strips and strips_of_taps.suits(Role.FORWARD, x.shape[0], planes, convolution):
        return strips_of_taps.forward(x, filters, convolution)
    if rows.suits(convolution, x.shape[0], channels):
        count = rows.parts_of_groups(Role.FORWARD, x, filters, convolution)
        return _in_parts(Role.FORWARD, rows.forward, x, filters, convolution, count)
    count = _parts_of_groups(convolution, channels)
    return _in_parts(Role.FORWARD, _forward, x, filters, convolution, count)


def input_gradient(
    filters: jax.Array, y: jax.Array, convolution: Convolution, in_strips: bool = True
) -> jax.Array:
    """``x`` ``(B, *image, G*C)``, likewise."""
    per_group = filters.shape[-1] // convolution.groups
    planes = filters.shape[-2] * per_group
    if pixels.suits(Role.INPUT_GRADIENT, y.shape[0], planes, convolution, in_strips):
        return pixels.input_gradient(filters, y, convolution, in_strips)
    if in_strips and strips_of_taps.suits(Role.INPUT_GRADIENT, y.shape[0], planes, convolution):
        return strips_of_taps.input_gradient(filters, y, convolution)
    if rows.suits(convolution, y.shape[0], per_group):
        count = rows.parts_of_groups(Role.INPUT_GRADIENT, filters, y, convolution)
        return _in_parts(Role.INPUT_GRADIENT, rows.input_gradient, filters, y, convolution, count)
    count = _parts_of_groups(convolution, per_group)
    return _in_parts(Role.INPUT_GRADIENT, _input_gradient, filters, y, convolution, count)


def _parts_of_groups(convolution: Convolution, planes: int) -> int:
    """In how many parts the groups are to be computed."""
    in_turns = planes * math.prod(convolution.filter_size) > shifts.UNROLLED_WEIGHTS
    return parts.divisor_about(convolution.groups, _PARTS) if in_turns else 1


def _in_parts(
    role: Role,
    compute: Callable[..., jax.Array],
    lhs: jax.Array,
    rhs: jax.Array,
    convolution: Convolution,
    count: int,
) -> jax.Array:
    """What ``compute`` makes of a part of the groups at a time."""
    part = dataclasses.replace(convolution, groups=convolution.groups // count)
    return turns.take_groups(
        functools.partial(compute, convolution=part),
        [lhs, rhs],
        count,
        convolution.shape(role, lhs.shape, rhs.shape),
        accumulator(lhs, rhs),
    )


def _forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    images = shifts.planes(x, convolution.groups)
    terms = [
        [regions.Shift(i, i * dilation - before) for i in range(size)]
        for size, dilation, (before, _) in zip(
            convolution.filter_size, convolution.dilation, convolution.padding, strict=True
        )
    ]
    by_filter = list(zip(*shifts.weights(filters, convolution.groups), strict=True))
    return shifts.join(
        [
            shifts.sum_of_shifts(
                images,
                [plane[None] for plane in weights],
                terms,
                convolution.outputs,
                convolution.strides,
                len(by_filter),
            )
            for weights in by_filter
        ]
    )


def _input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """One sum at stride one.

    The phases are axes of the weights, each behind the axis that it interleaves with.
    """
    axes = phases.axes(convolution)
    terms: list[list[regions.Shift]] = []
    counts: list[int] = []
    for axis in axes:
        start = axis.quotients[-1] - axis.padding[0]
        terms += [
            [regions.Shift(q // axis.dilation, start - q) for q in axis.quotients],
            [regions.Shift(None, 0)],
        ]
        counts += [axis.count, 1]
    images = [
        jnp.expand_dims(plane, [2 * i + 2 for i in range(len(axes))])
        for plane in shifts.planes(y, convolution.groups)
    ]
    gradients = []
    by_channel = shifts.weights(filters, convolution.groups)
    for weights in by_channel:
        phased = [phases.split_filters(plane, convolution)[None] for plane in weights]
        total = shifts.sum_of_shifts(
            images, phased, terms, counts, [1] * len(counts), len(by_channel)
        )
        gradients.append(phases.interleave(total, axes))
    return shifts.join(gradients)


def filter_gradient(
    x: jax.Array, y: jax.Array, convolution: Convolution, in_strips: bool = True
) -> jax.Array:
    """Filters ``(*filter, C, G*F)``, likewise.

    Pairs of a channel and a filter take turns in a loop, which compiles once and copies one pair.
    """
    groups = convolution.groups
    images = x.reshape(*x.shape[:-1], groups, -1)
    cotangents = y.reshape(*y.shape[:-1], groups, -1)
    channels, filters = images.shape[-1], cotangents.shape[-1]
    correlate = correlations.correlate
    if in_strips and outputs.suits(x.shape[0], convolution):
        correlate = outputs.correlate

    def of_pair(pair: jax.Array) -> jax.Array:
        image = lax.dynamic_index_in_dim(images, pair // filters, -1, keepdims=False)
        cotangent = lax.dynamic_index_in_dim(cotangents, pair % filters, -1, keepdims=False)
        return correlate(image, cotangent, convolution)

    if channels * filters == 1:
        return correlate(x, y, convolution)[..., None, :]
    gradients = turns.stack(channels * filters, of_pair)
    # (C, F, *filter, G) to (*filter, C, G * F)
    split = gradients.reshape(channels, filters, *gradients.shape[1:])
    whole = jnp.moveaxis(split, (0, 1), (-3, -1))
    return whole.reshape(*convolution.filter_size, channels, -1)
