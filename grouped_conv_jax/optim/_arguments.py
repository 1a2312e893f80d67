"""Checks of the numbers that the transformations accept.

Every number is a Python or NumPy number, or an array with no axes. Concrete numbers become Python
floats, which promote weakly. The value of a traced number is unknown, so only its kind is checked
and it is returned unchanged.
"""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from grouped_conv_jax import _checks

Number: TypeAlias = float | jax.Array
"""A checked ``float``, or a traced scalar."""

_RATE = _checks.NONNEGATIVE._replace(rule=f"{_checks.NONNEGATIVE.rule} or a schedule")


def number(name: str, value: Any, interval: _checks.Interval) -> Number:
    """Returns ``value`` as a ``float``, or unchanged if it is a traced scalar.

    Raises:
        TypeError: ``value`` is not a real number; booleans are not.
        ValueError: ``value`` is concrete and lies outside of ``interval``.
    """
    if isinstance(value, jax.core.Tracer) and _is_real_scalar(value):
        return value
    return float(_checks.number(name, value, interval))


def _is_real_scalar(array: jax.Array) -> bool:
    is_real = jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)
    return is_real and array.ndim == 0


def factor(name: str, value: Any) -> float:
    """Returns a nonnegative finite number, which must be known while tracing."""
    checked = number(name, value, _checks.NONNEGATIVE)
    if isinstance(checked, jax.Array):
        # Learnables are grouped by their factors, and a factor of 0 removes computations.
        raise TypeError(f"{name} must be a concrete number, got {value!r}")
    return checked


def learning_rate(name: str, value: Any) -> Number | optax.Schedule:
    """Returns a schedule unchanged, or a checked number."""
    return value if callable(value) else number(name, value, _RATE)
