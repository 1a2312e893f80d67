"""Initializers that compute fans per group.

Each takes ``(key, shape, dtype)`` like JAX's own. A group sees only its own channels and filters.
For weights of shape ``(h, w, C, F, G)`` the fan-in is thus ``h * w * C`` and the fan-out
``h * w * F``, whatever the number of groups ``G``. An initializer for ``(h, w, C, G * F)`` would
use a fan-out ``G`` times too large.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from grouped_conv_jax import _checks
from grouped_conv_jax.initializers._fans import check_fans

__all__ = ["Initializer", "glorot", "he", "narrow_normal", "ones", "zeros"]

Initializer: TypeAlias = Callable[..., Any]
"""A function of key, shape and dtype that returns an array, possibly boxed with metadata."""

_GROUPED_AXES = {"in_axis": -3, "out_axis": -2, "batch_axis": -1}
_GLOROT = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", **_GROUPED_AXES)
_HE = jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal", **_GROUPED_AXES)


def glorot(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Uniform with variance ``2 / (fan_in + fan_out)``.

    Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks,
    2010, equation 16.

    Args:
        key: a PRNG key.
        shape: ``(*filter_size, C, F, G)``.
        dtype: the dtype of the result.

    Raises:
        ValueError: the shape does not have four to six axes.

    Example:
        The bound of the distribution is ``sqrt(3 * 2 / (3 * 3 * 4 + 3 * 3 * 2))``:

        >>> import jax
        >>> from grouped_conv_jax import initializers
        >>> weights = initializers.glorot(jax.random.key(0), (3, 3, 4, 2, 8))
        >>> weights.shape, bool(abs(weights).max() <= (6 / 54) ** 0.5)
        ((3, 3, 4, 2, 8), True)
    """
    _check_axes(shape)
    return _GLOROT(key, shape, dtype)


def he(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Normal, not truncated, with variance ``2 / fan_in``.

    He et al., Delving deep into rectifiers, 2015, equation 10. Arguments and errors as
    :func:`glorot`.

    Example:
        The fan-in is ``3 * 3 * 4``, whatever the number of filters and of groups:

        >>> import jax
        >>> from grouped_conv_jax import initializers
        >>> weights = initializers.he(jax.random.key(0), (3, 3, 4, 64, 64))
        >>> bool(abs(weights.std() / (2 / 36) ** 0.5 - 1) < 0.01)
        True
    """
    _check_axes(shape)
    return _HE(key, shape, dtype)


def narrow_normal(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Normal, not truncated, with standard deviation 0.01, for any shape.

    Example:
        >>> import jax
        >>> from grouped_conv_jax import initializers
        >>> bias = initializers.narrow_normal(jax.random.key(0), (1, 1, 64, 64))
        >>> bool(abs(bias.std() - 0.01) < 0.001)
        True
    """
    return jax.nn.initializers.normal(0.01)(key, shape, dtype)


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Zeros, for any shape.

    Example:
        >>> import jax
        >>> from grouped_conv_jax import initializers
        >>> initializers.zeros(jax.random.key(0), (2,)).tolist()
        [0.0, 0.0]
    """
    return jax.nn.initializers.zeros(key, shape, dtype)


def ones(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Ones, for any shape.

    Example:
        >>> import jax
        >>> from grouped_conv_jax import initializers
        >>> initializers.ones(jax.random.key(0), (2,)).tolist()
        [1.0, 1.0]
    """
    return jax.nn.initializers.ones(key, shape, dtype)


_BIAS_WORDS: dict[str, Initializer] = {
    "zeros": zeros,
    "ones": ones,
    "narrow-normal": narrow_normal,
}
_WEIGHTS_WORDS: dict[str, Initializer] = {"glorot": glorot, "he": he} | _BIAS_WORDS


def check(name: str, value: str | Initializer, spatial_axes: int = 2) -> str | Initializer:
    """Returns ``value`` if it is a callable, or the initializer's name in its canonical spelling.

    Args:
        name: ``"weights_initializer"`` or ``"bias_initializer"``.
        value: the value of that argument.
        spatial_axes: the number of spatial axes.

    Raises:
        ValueError: ``value`` is an unknown word, or an initializer of JAX that computes fans on
            other axes.
        TypeError: ``value`` is neither a word nor a callable.
    """
    if callable(value):
        check_fans(name, value, spatial_axes)
        return value
    words = tuple(_BIAS_WORDS if name == "bias_initializer" else _WEIGHTS_WORDS)
    return _checks.word(name, value, words, "a callable (key, shape, dtype)")


def resolve(value: str | Initializer) -> Initializer:
    """Returns the initializer for a result of :func:`check`."""
    return _WEIGHTS_WORDS[value] if isinstance(value, str) else value


def _check_axes(shape: tuple[int, ...]) -> None:
    if len(shape) not in (4, 5, 6):
        raise ValueError(
            "shape must have four to six axes (*filter size, channels per group, filters per "
            f"group, groups), got {shape}"
        )
