"""Checks of the numbers that the transformations take."""

import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
import optax


def number(name: str, value: Any, rule: str, holds: Callable[[float], bool]) -> float:
    """Returns ``value`` as a ``float``, if it is a real number for which ``holds`` is true.

    Args:
        name: the argument's name, for the message.
        value: what was received.
        rule: what the number must be, for the message.
        holds: whether a number keeps the rule; it must be false for NaN.

    Raises:
        TypeError: ``value`` is not a real number; booleans are not.
        ValueError: ``value`` breaks the rule.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {rule}, got {value!r}")
    try:
        result = float(value)
    except OverflowError:  # An integer beyond every float.
        result = math.nan
    if not holds(result):
        raise ValueError(f"{name} must be {rule}, got {value!r}")
    return result


def nonnegative(name: str, value: Any) -> float:
    """Returns a finite number that is not negative."""
    return number(name, value, "a nonnegative finite number", lambda x: 0 <= x < math.inf)


def positive(name: str, value: Any) -> float:
    """Returns a finite number above zero."""
    return number(name, value, "a positive finite number", lambda x: 0 < x < math.inf)


def threshold(name: str, value: Any) -> float:
    """Returns a number above zero, which may be infinity."""
    return number(name, value, "a positive number, or infinity for no clipping", lambda x: x > 0)


def decay_factor(name: str, value: Any) -> float:
    """Returns a number of at least 0 and below 1."""
    return number(name, value, "a number of at least 0 and below 1", lambda x: 0 <= x < 1)


def momentum(name: str, value: Any) -> float:
    """Returns a number from 0 to 1."""
    return number(name, value, "a number from 0 to 1", lambda x: 0 <= x <= 1)


def learning_rate(name: str, value: Any) -> optax.ScalarOrSchedule:
    """Returns a schedule as it is, and a number checked."""
    if callable(value):
        return value
    rule = "a nonnegative finite number or a schedule"
    return number(name, value, rule, lambda x: 0 <= x < math.inf)
