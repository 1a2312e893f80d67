"""Checks of property values; messages give the property, the rule and the received value."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from grouped_conv_jax import _checks
from grouped_conv_jax.matlab._properties import Check

_BIAS_INITIALIZERS = ("zeros", "ones", "narrow-normal")
_WEIGHTS_INITIALIZERS = ("glorot", "he", *_BIAS_INITIALIZERS)


def to_integers(value: Any) -> Any:
    """Converts integral floats such as ``2.0`` to integers; numbers in MATLAB are doubles.

    Example:
        >>> to_integers(2.0), to_integers([1.0, 2.5]), to_integers("same")
        (2, [1, 2.5], 'same')
    """
    if isinstance(value, list | tuple):
        return type(value)(map(to_integers, value))
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return to_integers(np.asarray(value).tolist())
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def integral(name: str, value: Any) -> Any:
    """Converts integral floats to integers; `GroupedConv2D` checks the rest."""
    del name
    return to_integers(value)


def text(name: str, value: Any) -> str:
    """Accepts a string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r}")
    return value


def word(*words: str, also: str = "", takes: Callable[[Any], bool] | None = None) -> Check:
    """Accepts one of some words, case-insensitively, or a value for which ``takes`` is true."""

    def check(name: str, value: Any) -> Any:
        if takes is not None and takes(value):
            return value
        return _checks.word(name, value, words, also)

    return check


weights_initializer = word(*_WEIGHTS_INITIALIZERS, also="a function of the size", takes=callable)
bias_initializer = word(*_BIAS_INITIALIZERS, also="a function of the size", takes=callable)


def integer(minimum: int) -> Check:
    """Accepts an integer or an integral float of at least ``minimum``."""
    return lambda name, value: _checks.integer(name, to_integers(value), minimum)


def auto_or_positive(name: str, value: Any) -> int | str:
    """Accepts a positive integer or ``'auto'``."""
    return _checks.integer_or_word(name, to_integers(value), "auto")


def number(interval: _checks.Interval) -> Check:
    """Accepts a real number in an interval."""
    return lambda name, value: _checks.number(name, value, interval)


def nonnegative(name: str, value: Any) -> float:
    """A nonnegative finite number, as a double."""
    return float(_checks.number(name, value, _checks.NONNEGATIVE))


positive = number(_checks.POSITIVE)
threshold = number(_checks.THRESHOLD)
fraction = number(_checks.FROM_0_BELOW_1)
unit = number(_checks.FROM_0_TO_1)


def logical(name: str, value: Any) -> int:
    """Accepts true or false, which MATLAB displays as 1 and 0."""
    if isinstance(value, bool | np.bool_) or to_integers(value) in (0, 1):
        return int(value)
    error = ValueError if isinstance(value, int | float) else TypeError
    raise error(f"{name} must be True or False, got {value!r}")


def array(axes: int) -> Check:
    """Accepts a real array with ``axes`` axes, up to trailing ones of size 1; empty means unset."""

    def check(name: str, value: Any) -> Any:
        if value is None or (isinstance(value, list) and not value):
            return None
        _checks.check_real_dtype(name, value)
        if not value.size:
            return None
        return value.reshape(value.shape + (1,) * (axes - value.ndim))

    return check
