"""Polyphase decomposition: the input gradient as a convolution with stride one.

Tap ``i`` carries output ``o`` to pixel ``o * s + i * d`` of the padded image, which with
``q, r = divmod(i * d, s)`` is ``(o + q) * s + r``. So pixel ``m * s + r`` sums ``y[m - q]`` over
the taps of phase ``r``: each phase is a convolution of ``y`` with stride one, and the phases
interleave. JAX's transpose instead dilates ``y`` by the stride, and multiplies zeros.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from grouped_conv_jax.operation._description import Convolution

Forward: TypeAlias = Callable[[jax.Array, jax.Array, Convolution], jax.Array]


@dataclasses.dataclass(frozen=True)
class PhasedAxis:
    """One spatial axis of the input gradient.

    Attributes:
        quotients: the distinct ``q``, in ascending order.
        dilation: the distance between adjacent quotients of the split filters.
        padding: the zeros added around ``y``; negative numbers crop.
        count: the number of ``m``.
        crop: the slice of the ``count * stride`` interleaved pixels that is the image.
    """

    quotients: tuple[int, ...]
    dilation: int
    padding: tuple[int, int]
    count: int
    crop: slice


def axes(convolution: Convolution) -> list[PhasedAxis]:
    """Returns the decomposition along each spatial axis."""
    result = []
    for image, (before, _), outputs, size, stride, dilation in zip(
        convolution.image,
        convolution.padding,
        convolution.outputs,
        convolution.filter_size,
        convolution.strides,
        convolution.dilation,
        strict=True,
    ):
        quotients = tuple(sorted({i * dilation // stride for i in range(size)}))
        first, last = before // stride, (before + image - 1) // stride
        start = before - first * stride
        result.append(
            PhasedAxis(
                quotients,
                dilation if stride == 1 else 1,
                (quotients[-1] - first, last + 1 - outputs),
                last + 1 - first,
                slice(start, start + image),
            )
        )
    return result


def as_forward(convolution: Convolution) -> Convolution:
    """The convolution of ``y`` with the filters of all phases, with stride one."""
    phased_axes = axes(convolution)
    return dataclasses.replace(
        convolution,
        image=convolution.outputs,
        filter_size=tuple(axis.quotients[-1] // axis.dilation + 1 for axis in phased_axes),
        strides=(1,) * len(phased_axes),
        padding=tuple(axis.padding for axis in phased_axes),
        dilation=tuple(axis.dilation for axis in phased_axes),
    )


def input_gradient(
    filters: jax.Array, y: jax.Array, convolution: Convolution, forward: Forward
) -> jax.Array:
    """Computes ``x`` ``(B, *image, G*C)`` by one convolution over all phases, with stride one.

    Args:
        filters: ``(*filter, C, G*F)``.
        y: ``(B, *outputs, G*F)``.
        convolution: the convolution to compute the input gradient of.
        forward: computes the forward pass from images, filters and a convolution.
    """
    phased_axes = axes(convolution)
    rank, groups = len(phased_axes), convolution.groups
    # (Q1, s1, Q2, s2, ..., C, G, F) to (Q1, Q2, ..., F, G * s1 * s2 * ... * C), the first tap last.
    split = jnp.flip(split_filters(filters, convolution), range(0, 2 * rank, 2))
    split = split.reshape(*split.shape[:-1], groups, -1)
    taps, strides = range(0, 2 * rank, 2), range(1, 2 * rank, 2)
    kernel = jnp.transpose(split, [*taps, 2 * rank + 2, 2 * rank + 1, *strides, 2 * rank])
    kernel = kernel.reshape(*kernel.shape[: rank + 1], -1)
    phased = forward(y, kernel, as_forward(convolution))
    # (B, M1, M2, ..., G, s1, s2, ..., C) to (B, M1, s1, M2, s2, ..., G * C)
    phased = phased.reshape(*phased.shape[:-1], groups, *convolution.strides, -1)
    pairs = [position for i in range(rank) for position in (1 + i, 2 + rank + i)]
    phased = jnp.transpose(phased, [0, *pairs, 1 + rank, 2 + 2 * rank])
    return interleave(phased.reshape(*phased.shape[:-2], -1), phased_axes)


def split_filters(filters: jax.Array, convolution: Convolution) -> jax.Array:
    """Splits ``(*filter, ...)`` by quotient and phase: ``(Q1, s1, Q2, s2, ..., ...)``.

    A phase without a tap at a quotient has a zero there.
    """
    for axis, (size, stride, dilation) in enumerate(
        zip(convolution.filter_size, convolution.strides, convolution.dilation, strict=True)
    ):
        if stride > 1:
            # Zeros dilate the taps, and extend them to a multiple of the stride.
            extent = (size - 1) * dilation + 1
            spread = [(0, 0, 0)] * filters.ndim
            spread[2 * axis] = (0, -extent % stride, dilation - 1)
            filters = lax.pad(filters, jnp.zeros((), filters.dtype), spread)
        filters = filters.reshape(
            *filters.shape[: 2 * axis], -1, stride, *filters.shape[2 * axis + 1 :]
        )
    return filters


def interleave(phased: jax.Array, phased_axes: Sequence[PhasedAxis]) -> jax.Array:
    """Interleaves the phases: ``(B, M1, s1, M2, s2, ..., C)`` to ``(B, *image, C)``."""
    sizes = phased.shape[1:-1]
    merged = [m * s for m, s in zip(sizes[::2], sizes[1::2], strict=True)]
    interleaved = phased.reshape(phased.shape[0], *merged, phased.shape[-1])
    return interleaved[(slice(None), *(axis.crop for axis in phased_axes))]
