"""Argument validators; each message names the argument, the rule and the value received."""

import contextlib
import difflib
import math
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

_FLOATING = ("float64", "float32", "bfloat16", "float16")
_FLOATING_NAMES = f"{', '.join(_FLOATING[:-1])} or {_FLOATING[-1]}"
# XLA counts pixels in 32 bits.
_LARGEST_INTEGER = 2**31 - 1


class Interval(NamedTuple):
    """A set of real numbers that an argument accepts.

    Attributes:
        rule: what the number must be, for the message.
        contains: whether a number lies in the set; it must be false for NaN.
    """

    rule: str
    contains: Callable[[Any], bool]


FINITE = Interval("a finite number", math.isfinite)
NONNEGATIVE = Interval("a nonnegative finite number", lambda x: 0 <= x < math.inf)
POSITIVE = Interval("a positive finite number", lambda x: 0 < x < math.inf)
THRESHOLD = Interval("a positive number, or infinity for no clipping", lambda x: x > 0)
FROM_0_BELOW_1 = Interval("a number of at least 0 and below 1", lambda x: 0 <= x < 1)
FROM_0_TO_1 = Interval("a number from 0 to 1", lambda x: 0 <= x <= 1)


def integer(name: str, value: Any, minimum: int) -> int:
    """Returns an integer from ``minimum`` to ``2**31 - 1``; refuses booleans and floats."""
    rule = f"{name} must be {'a positive integer' if minimum == 1 else f'an integer >= {minimum}'}"
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{rule}, got {value!r}")
    try:
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{rule}, got {value!r}") from None
    if result < minimum:
        raise ValueError(f"{rule}, got {value!r}")
    if result > _LARGEST_INTEGER:
        raise ValueError(f"{name} must be at most 2**31 - 1, got {value!r}")
    return result


def integer_or_word(name: str, value: Any, only_word: str) -> int | str:
    """Returns a positive integer, or the one word that the argument accepts instead."""
    if isinstance(value, str):
        return word(name, value, (only_word,), "a positive integer")
    return integer(name, value, 1)


def items(value: Any) -> tuple[Any, ...] | None:
    """Returns the elements of a sequence or an array, or ``None`` for a single value or a word."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(value)
    if getattr(value, "ndim", 0):
        return tuple(np.asarray(value).tolist())
    return None


def per_axis(name: str, value: Any, axes: int) -> tuple[int, ...]:
    """Returns one positive integer per spatial axis, from a single one or a sequence."""
    entries = items(value)
    if entries is None:
        return (integer(name, value, 1),) * axes
    if len(entries) != axes:
        several = {
            1: "a sequence of one",
            2: "a pair (vertical, horizontal)",
            3: "three of them (depth, vertical, horizontal)",
        }
        raise ValueError(f"{name} must be a positive integer or {several[axes]}, got {value!r}")
    return tuple(integer(f"{name}[{i}]", entry, 1) for i, entry in enumerate(entries))


def number(name: str, value: Any, interval: Interval) -> float | int:
    """Returns a Python number from a real number or a concrete array with no axes.

    Args:
        name: the argument's name, for the message.
        value: the value received.
        interval: the numbers that the argument accepts.

    Raises:
        TypeError: ``value`` is not a real number; booleans are not.
        ValueError: ``value`` lies outside of ``interval``.
    """
    plain = value
    if getattr(value, "ndim", None) == 0:
        # A traced array has no value yet; the next check refuses it.
        with contextlib.suppress(TypeError):
            plain = np.asarray(value).item()
    if isinstance(plain, bool) or not isinstance(plain, numbers.Real):
        raise TypeError(f"{name} must be {interval.rule}, got {value!r}")
    try:
        is_inside = interval.contains(float(plain))
    except OverflowError:  # An integer beyond every float.
        is_inside = False
    if not is_inside:
        raise ValueError(f"{name} must be {interval.rule}, got {value!r}")
    return int(plain) if isinstance(plain, numbers.Integral) else float(plain)


def boolean(name: str, value: Any) -> bool:
    """Returns ``value`` as a ``bool``; refuses anything but Python's and NumPy's booleans."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def word(
    name: str,
    value: Any,
    words: Sequence[str],
    also: str = "",
    elsewhere: Mapping[str, str] | None = None,
) -> str:
    """Returns the one of ``words`` that ``value`` spells; case and hyphens do not matter.

    Args:
        name: the argument's name, for the message.
        value: the value received.
        words: the accepted words.
        also: what the argument accepts besides words, for the message.
        elsewhere: other libraries' words and what they mean here, for the message.
    """
    listed = ", ".join(repr(w) for w in words) + (f" or {also}" if also else "")
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {listed}, got {value!r}")
    without_hyphens = {w.replace("-", ""): w for w in words}
    spelled = without_hyphens.get(value.lower().replace("-", ""))
    if spelled is None:
        meant = (elsewhere or {}).get(value.lower())
        hint = f"; that is {meant} here" if meant else nearest(value, words)
        raise ValueError(f"{name} must be one of {listed}, got {value!r}{hint}")
    return spelled


def nearest(value: str, words: Iterable[str]) -> str:
    """Returns a hint ``"; did you mean 'same'?"``, or an empty string; case does not matter."""
    by_lower_case = {word.lower(): word for word in words}
    close = difflib.get_close_matches(value.lower(), by_lower_case, n=1)
    return f"; did you mean {by_lower_case[close[0]]!r}?" if close else ""


def floating_array(name: str, value: Any) -> None:
    """Raises ``TypeError`` unless ``value`` is an array of a supported floating-point dtype."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        raise TypeError(f"{name} must be an array, got {type(value).__name__}")
    if getattr(dtype, "name", None) not in _FLOATING:
        raise TypeError(f"{name} must be {_FLOATING_NAMES}, got {dtype}")


def floating_dtype(name: str, dtype: Any) -> np.dtype[Any]:
    """Returns ``dtype`` as a NumPy dtype, which must be a supported floating-point one."""
    try:
        # NumPy reads None as float64.
        result = None if dtype is None else np.dtype(dtype)
    except (TypeError, ValueError):
        result = None
    if result is None or result.name not in _FLOATING:
        raise TypeError(f"{name} must be {_FLOATING_NAMES}, got {dtype!r}")
    return result


def check_real_dtype(name: str, array: Any) -> None:
    """Raises ``TypeError`` unless ``array`` holds floats or integers; booleans are neither."""
    dtype = getattr(array, "dtype", np.dtype(object))
    try:
        is_real = jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    except TypeError:  # A dtype of another library.
        is_real = False
    if not is_real:
        raise TypeError(
            f"{name} must be an array of real numbers, got {type(array).__name__} of {dtype}"
        )


def shape_is(name: str, array: Any, expected: tuple[int, ...], axes: str) -> None:
    """Raises ``ValueError`` unless ``array`` has the shape ``expected``."""
    shape = np.shape(array)
    if tuple(shape) != tuple(expected):
        raise ValueError(f"{name} must have shape {axes} = {expected}, got {tuple(shape)}")
