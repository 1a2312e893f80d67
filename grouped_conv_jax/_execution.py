"""Runs one bound grouped convolution in plain JAX, whatever ``vmap`` stacked upon it."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from grouped_conv_jax import _choice
from grouped_conv_jax._convolution import Convolution, Role, Stacks, accumulator
from grouped_conv_jax._implementations import turns


def compute(
    lhs: jax.Array,
    rhs: jax.Array,
    *,
    role: Role,
    convolution: Convolution,
    dtype: Any,
    implementation: str | None,
    stacks: Stacks,
    platform: str,
) -> jax.Array:
    """Runs the implementation chosen for ``platform``, in plain JAX."""
    sizes, shapes = unstack(stacks, lhs.shape, rhs.shape)
    result = (*sizes, *convolution.shape(role, *shapes))
    if 0 in (*lhs.shape, *rhs.shape, *result):
        return jnp.zeros(result, dtype)
    choice = choose(role, convolution, shapes, platform, implementation)
    if role != Role.FORWARD:
        convolution = dataclasses.replace(convolution, preferred_element_type=None)
    function: Callable[..., jax.Array] = functools.partial(
        choice.function(role, platform), convolution=convolution
    )
    # With preferred_element_type a cotangent may be wider than what it meets.
    common = lhs.dtype if lhs.dtype == rhs.dtype else accumulator(lhs, rhs)
    images = role.images
    for depth, level in reversed([*enumerate(stacks)]):
        if level[images] and not level[1 - images] and role != Role.FILTER_GRADIENT:
            inner = stacks[depth + 1 :]
            function = _joined(function, images, sum(one[images] for one in inner), len(inner))
        elif all(level) and choice.loops_over_stacks(role, convolution):
            function = functools.partial(turns.stack_of_pairs, function)
        else:
            function = jax.vmap(
                function, in_axes=tuple(0 if stacked else None for stacked in level)
            )
    return function(lhs.astype(common), rhs.astype(common)).astype(dtype)


def _joined(
    function: Callable[..., jax.Array], images: int, axis: int, out: int
) -> Callable[..., jax.Array]:
    """Lets a leading axis that only images have join the batch.

    Args:
        function: takes the operands without it.
        images: which operand has it.
        axis: where the batch is in that operand, without it.
        out: where the batch is in the result, without it.
    """

    def joined(*operands: jax.Array) -> jax.Array:
        moved = jnp.moveaxis(operands[images], 0, axis)
        before, pair, after = (
            moved.shape[:axis],
            moved.shape[axis : axis + 2],
            moved.shape[axis + 2 :],
        )
        arguments = list(operands)
        arguments[images] = moved.reshape(*before, pair[0] * pair[1], *after)
        result = function(*arguments)
        split = result.reshape(*result.shape[:out], *pair, *result.shape[out + 1 :])
        return jnp.moveaxis(split, out, 0)

    return joined


def choose(
    role: Role,
    convolution: Convolution,
    shapes: Sequence[tuple[int, ...]],
    platform: str,
    implementation: str | None,
) -> _choice.Choice:
    """The choice for operands of the given shapes, without their stacked axes."""
    operands = dict(zip(role.operands, shapes, strict=True))
    operands[role] = convolution.shape(role, *shapes)
    channels, outputs = operands[Role.FILTER_GRADIENT][-2:]
    filters = outputs // convolution.groups
    return _choice.choose(role, convolution, channels, filters, platform, implementation)


def unstack(stacks: Stacks, *shapes: tuple[int, ...]) -> tuple[list[int], list[tuple[int, ...]]]:
    """The sizes of the stacked axes, and the operands' shapes without them."""
    rest = list(shapes)
    sizes: list[int] = []
    for level in stacks:
        for i, stacked in enumerate(level):
            if stacked:
                size, *tail = rest[i]
                rest[i] = tuple(tail)
        sizes.append(size)
    return sizes, rest
