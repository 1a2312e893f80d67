"""Small checks of arguments; each message names the argument, the rule and what was received."""

import contextlib
import difflib
import math
import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_FLOATING = ("float64", "float32", "bfloat16", "float16")
_LISTED = f"{', '.join(_FLOATING[:-1])} or {_FLOATING[-1]}"
# XLA counts pixels in 32 bits.
_MOST = 2**31 - 1


def integer(name: str, value: Any, minimum: int) -> int:
    """Returns ``value`` as an ``int`` from ``minimum`` to ``2**31 - 1``; it is no bool or float."""
    rule = f"{name} must be {'a positive integer' if minimum == 1 else f'an integer >= {minimum}'}"
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{rule}, got {value!r}")
    try:
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{rule}, got {value!r}") from None
    if result < minimum:
        raise ValueError(f"{rule}, got {value!r}")
    if result > _MOST:
        raise ValueError(f"{name} must be at most 2**31 - 1, got {value!r}")
    return result


def items(value: Any) -> tuple[Any, ...] | None:
    """The elements of a sequence or an array; ``None`` for a single value or a word."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(value)
    if getattr(value, "ndim", 0):
        return tuple(np.asarray(value).tolist())
    return None


def per_axis(name: str, value: Any, axes: int) -> tuple[int, ...]:
    """Returns a positive integer for each spatial axis, from one for all or a sequence of them."""
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


def finite_number(name: str, value: Any) -> float | int:
    """Returns a finite real Python number from a number or a concrete array with no axes."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        # What is traced has no number yet, and is refused below.
        with contextlib.suppress(TypeError):
            value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    try:
        finite = math.isfinite(value)
    except OverflowError:  # An integer beyond every float.
        finite = False
    if not finite:
        raise ValueError(f"{name} must be finite, got {value!r}")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def nonnegative_number(name: str, value: Any) -> float:
    """Returns a finite real number that is not negative, as a ``float``."""
    number = finite_number(name, value)
    if number < 0:
        raise ValueError(f"{name} must be nonnegative, got {value!r}")
    return float(number)


def word(
    name: str,
    value: Any,
    words: Sequence[str],
    also: str = "",
    elsewhere: Mapping[str, str] | None = None,
) -> str:
    """Returns the one of ``words`` that ``value`` means; case and hyphens do not matter.

    Args:
        name: the argument's name, for the message.
        value: what was received.
        words: the words there are.
        also: what else than a word the argument takes, for the message.
        elsewhere: what other libraries' words mean here, for the message.
    """
    listed = ", ".join(repr(w) for w in words) + (f" or {also}" if also else "")
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {listed}, got {value!r}")
    plain = {w.replace("-", ""): w for w in words}
    found = plain.get(value.lower().replace("-", ""))
    if found is None:
        meant = (elsewhere or {}).get(value.lower())
        hint = f"; that is {meant} here" if meant else nearest(value, words)
        raise ValueError(f"{name} must be one of {listed}, got {value!r}{hint}")
    return found


def nearest(value: str, words: Iterable[str]) -> str:
    """A hint ``"; did you mean 'same'?"`` or an empty string; case does not matter."""
    spelled = {word.lower(): word for word in words}
    close = difflib.get_close_matches(value.lower(), spelled, n=1)
    return f"; did you mean {spelled[close[0]]!r}?" if close else ""


def floating_array(name: str, value: Any) -> None:
    """Raises ``TypeError`` unless ``value`` is an array of a dtype that convolutions are for."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        raise TypeError(f"{name} must be an array, got {type(value).__name__}")
    if getattr(dtype, "name", None) not in _FLOATING:
        raise TypeError(f"{name} must be {_LISTED}, got {dtype}")


def floating_dtype(name: str, dtype: Any) -> np.dtype[Any]:
    """Returns the dtype that ``dtype`` means, one of those that convolutions are for."""
    try:
        # NumPy's own default for None is float64.
        found = None if dtype is None else np.dtype(dtype)
    except (TypeError, ValueError):
        found = None
    if found is None or found.name not in _FLOATING:
        raise TypeError(f"{name} must be {_LISTED}, got {dtype!r}")
    return found


def shape_is(name: str, array: Any, expected: tuple[int, ...], axes: str) -> None:
    """Raises ``ValueError`` unless ``array`` has the shape ``expected``."""
    shape = np.shape(array)
    if tuple(shape) != tuple(expected):
        raise ValueError(f"{name} must have shape {axes} = {expected}, got {tuple(shape)}")
