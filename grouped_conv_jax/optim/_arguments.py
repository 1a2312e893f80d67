"""Checks of the numbers that the transformations take.

Every number is a Python or NumPy number, or an array with no axes. Concrete ones become Python
floats, which are checked and promote weakly; the value of a traced one is unknown, so only its kind
is checked and it is returned as it is.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

Number: TypeAlias = float | jax.Array
"""A checked ``float``, or a traced scalar."""


def number(name: str, value: Any, rule: str, holds: Callable[[float], bool]) -> Number:
    """Returns ``value``, if it is a real number for which ``holds`` is true.

    Args:
        name: the argument's name, for the message.
        value: what was received.
        rule: what the number must be, for the message.
        holds: whether a number keeps the rule; it must be false for NaN.

    Raises:
        TypeError: ``value`` is not a real number; booleans are not.
        ValueError: ``value`` is concrete and breaks the rule.
    """
    if not _is_real(value):
        raise TypeError(f"{name} must be {rule}, got {value!r}")
    if isinstance(value, jax.core.Tracer):
        return value
    try:
        result = float(value)
    except OverflowError:  # An integer beyond every float.
        result = math.nan
    if not holds(result):
        raise ValueError(f"{name} must be {rule}, got {value!r}")
    return result


def _is_real(value: Any) -> bool:
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        real = jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)
        return real and value.ndim == 0
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def nonnegative(name: str, value: Any) -> Number:
    """Returns a finite number that is not negative."""
    return number(name, value, "a nonnegative finite number", lambda x: 0 <= x < math.inf)


def factor(name: str, value: Any) -> float:
    """Returns a finite number that is not negative and is known while tracing."""
    checked = nonnegative(name, value)
    if isinstance(checked, jax.Array):
        # Learnables are grouped by their factors, and a factor of 0 removes computations.
        raise TypeError(f"{name} must be a concrete number, got {value!r}")
    return checked


def positive(name: str, value: Any) -> Number:
    """Returns a finite number above zero."""
    return number(name, value, "a positive finite number", lambda x: 0 < x < math.inf)


def threshold(name: str, value: Any) -> Number:
    """Returns a number above zero, which may be infinity."""
    return number(name, value, "a positive number, or infinity for no clipping", lambda x: x > 0)


def decay_factor(name: str, value: Any) -> Number:
    """Returns a number of at least 0 and below 1."""
    return number(name, value, "a number of at least 0 and below 1", lambda x: 0 <= x < 1)


def momentum(name: str, value: Any) -> Number:
    """Returns a number from 0 to 1."""
    return number(name, value, "a number from 0 to 1", lambda x: 0 <= x <= 1)


def learning_rate(name: str, value: Any) -> Number | optax.Schedule:
    """Returns a schedule as it is, and a number checked."""
    if callable(value):
        return value
    rule = "a nonnegative finite number or a schedule"
    return number(name, value, rule, lambda x: 0 <= x < math.inf)
