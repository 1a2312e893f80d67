"""Checks of properties' values; messages name the property, the rule and what was received."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from grouped_conv_jax import _checks
from grouped_conv_jax.matlab._described import Check

_BIAS_WORDS = ("zeros", "ones", "narrow-normal")
_WEIGHTS_WORDS = ("glorot", "he", *_BIAS_WORDS)


def whole(value: Any) -> Any:
    """Makes Python's integers of doubles such as ``2.0``, which in MATLAB are what integers are.

    Example:
        >>> whole(2.0), whole([1.0, 2.5]), whole("same")
        (2, [1, 2.5], 'same')
    """
    if isinstance(value, list | tuple):
        return type(value)(map(whole, value))
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return whole(np.asarray(value).tolist())
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def text(name: str, value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r}")
    return value


def word(*words: str, also: str = "", takes: Callable[[Any], bool] | None = None) -> Check:
    """One of some words, in any case, or what ``takes`` takes."""

    def check(name: str, value: Any) -> Any:
        if takes is not None and takes(value):
            return value
        return _checks.word(name, value, words, also)

    return check


weights_initializer = word(*_WEIGHTS_WORDS, also="a function of the size", takes=callable)
bias_initializer = word(*_BIAS_WORDS, also="a function of the size", takes=callable)


def integer(minimum: int) -> Check:
    """An integer, doubles among them."""
    return lambda name, value: _checks.integer(name, whole(value), minimum)


def auto_or_positive(name: str, value: Any) -> int | str:
    """A positive integer, or ``'auto'``."""
    return _checks.integer_or_word(name, whole(value), "auto")


def number(interval: _checks.Interval) -> Check:
    """A real number in an interval."""
    return lambda name, value: _checks.number(name, value, interval)


def nonnegative(name: str, value: Any) -> float:
    """A nonnegative finite number, as a double."""
    return float(_checks.number(name, value, _checks.NONNEGATIVE))


positive = number(_checks.POSITIVE)
threshold = number(_checks.THRESHOLD)
fraction = number(_checks.FROM_0_BELOW_1)
unit = number(_checks.FROM_0_TO_1)


def logical(name: str, value: Any) -> int:
    """True or false, which MATLAB shows as 1 and 0."""
    if isinstance(value, bool | np.bool_) or whole(value) in (0, 1):
        return int(value)
    error = ValueError if isinstance(value, int | float) else TypeError
    raise error(f"{name} must be True or False, got {value!r}")


def array(axes: int) -> Check:
    """An array of real numbers, its trailing axes of size one perhaps dropped; empty for none."""

    def check(name: str, value: Any) -> Any:
        if value is None or (isinstance(value, list) and not value):
            return None
        _checks.check_real_dtype(name, value)
        if not value.size:
            return None
        return value.reshape(value.shape + (1,) * (axes - value.ndim))

    return check
