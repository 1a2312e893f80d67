"""Arithmetic in no less than float32."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def at_least_float32(
    transformation: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Runs a transformation in float32 where parameters have 16 bits, and rounds its updates back.

    In 16 bits the square of a gradient overflows (float16) and 0.999 is 1 (bfloat16).
    """

    def init(params: optax.Params) -> optax.OptState:
        return transformation.init(widen(params))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        wide = None if params is None else widen(params)
        new, state = transformation.update(widen(updates), state, wide)
        return jax.tree.map(lambda n, u: n.astype(u.dtype), new, updates), state

    return optax.GradientTransformation(init, update)


def widen(tree: Any) -> Any:
    """Casts leaves of fewer than 32 bits to float32."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype.itemsize < 4 else x, tree)
