"""The update rules of the solvers, and their states.

The states are optax's, so that ``optax.tree.get`` and ``optax.tree.map_params`` recognize them.
Averages of squares are real even for complex parameters. Every number may be traced.
"""

import math

import jax
import jax.numpy as jnp
import optax

from grouped_conv_jax.optim._arguments import Number
from grouped_conv_jax.optim._precision import as_dtype_of, squared_magnitude


def scale_by_learning_rate(rate: Number | optax.Schedule) -> optax.GradientTransformation:
    """Multiplies by ``-rate``."""
    if callable(rate):
        return optax.scale_by_learning_rate(rate)
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda u: -as_dtype_of(u, rate) * u, updates)
    )


def accumulate(momentum: Number) -> optax.GradientTransformation:
    """Replaces the update by the velocity ``v <- momentum * v + update``."""

    def init(params: optax.Params) -> optax.TraceState:
        return optax.TraceState(trace=optax.tree.zeros_like(params))

    def update(
        updates: optax.Updates, state: optax.TraceState, _: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.TraceState]:
        velocity = jax.tree.map(lambda u, v: u + as_dtype_of(v, momentum) * v, updates, state.trace)
        return velocity, optax.TraceState(trace=velocity)

    return optax.GradientTransformation(init, update)


def scale_by_rms(decay: Number, epsilon: Number) -> optax.GradientTransformation:
    """Divides by ``sqrt(v) + epsilon``, with the moving average ``v`` of ``|update|^2``."""

    def init(params: optax.Params) -> optax.ScaleByRmsState:
        return optax.ScaleByRmsState(nu=jax.tree.map(_real_zeros, params))

    def update(
        updates: optax.Updates, state: optax.ScaleByRmsState, _: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByRmsState]:
        nu = _average_square(decay, updates, state.nu)
        updates = jax.tree.map(lambda u, v: _divide(u, v, epsilon), updates, nu)
        return updates, optax.ScaleByRmsState(nu=nu)

    return optax.GradientTransformation(init, update)


def scale_by_adam(b1: Number, b2: Number, epsilon: Number) -> optax.GradientTransformation:
    """Replaces the update ``g`` by the step of Adam, with ``|g|^2`` where ``g`` is complex."""

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        return optax.ScaleByAdamState(
            count=jnp.zeros((), jnp.int32),
            mu=optax.tree.zeros_like(params),
            nu=jax.tree.map(_real_zeros, params),
        )

    def update(
        updates: optax.Updates, state: optax.ScaleByAdamState, _: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(lambda u, m: _average(b1, u, m), updates, state.mu)
        nu = _average_square(b2, updates, state.nu)
        scale = jnp.sqrt(_one_minus_power(b2, count)) / _one_minus_power(b1, count)
        updates = jax.tree.map(lambda m, v: scale.astype(m.dtype) * _divide(m, v, epsilon), mu, nu)
        return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


def _real_zeros(array: jax.Array) -> jax.Array:
    return jnp.zeros_like(array, dtype=array.real.dtype)


def _average(decay: Number, new: jax.Array, old: jax.Array) -> jax.Array:
    decay = as_dtype_of(old, decay)
    return (1 - decay) * new + decay * old


def _average_square(decay: Number, updates: optax.Updates, old: optax.Updates) -> optax.Updates:
    return jax.tree.map(lambda u, v: _average(decay, squared_magnitude(u), v), updates, old)


def _divide(array: jax.Array, square: jax.Array, epsilon: Number) -> jax.Array:
    root = jnp.sqrt(square) + as_dtype_of(square, epsilon)
    return array / root.astype(array.dtype)


def _one_minus_power(decay: Number, count: jax.Array) -> jax.Array:
    """Computes ``1 - decay^count`` without cancellation: ``1 - 0.999`` is inexact in float32."""
    steps = count.astype(float)
    if isinstance(decay, float):
        log_decay: Number = math.log(decay) if decay else -math.inf
    else:
        log_decay = jnp.log(as_dtype_of(steps, decay))
    return -jnp.expm1(log_decay * steps)
