"""Dtypes of the arithmetic: at least float32, and independent of the dtype of traced numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from grouped_conv_jax.optim._arguments import Number


def at_least_float32(
    transformation: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Runs a transformation in float32 if parameters have 16 bits, and rounds the updates back.

    In 16 bits, the square of a gradient overflows (float16) and 0.999 rounds to 1 (bfloat16).
    """
    inner = optax.with_extra_args_support(transformation)

    def init(params: optax.Params) -> optax.OptState:
        return inner.init(widen(params))

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        wide = None if params is None else widen(params)
        new, state = inner.update(widen(updates), state, wide, **extra_args)
        return jax.tree.map(lambda n, u: n.astype(jnp.result_type(u)), new, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def widen(tree: Any) -> Any:
    """Casts floats of fewer than 32 bits to float32, and converts Python numbers to arrays."""
    return jax.tree.map(_widen, tree)


def _widen(leaf: Any) -> jax.Array:
    array = jnp.asarray(leaf)
    narrow = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4
    return array.astype(jnp.float32) if narrow else array


def as_dtype_of(array: jax.Array, number: Number) -> Number:
    """Casts a traced number so that, like a Python float, it does not promote ``array``."""
    return number.astype(array.dtype) if isinstance(number, jax.Array) else number


def squared_magnitude(array: jax.Array) -> jax.Array:
    """Computes ``|x|^2`` as a real array, also for complex ``x``."""
    return jnp.real(jnp.conj(array) * array)
