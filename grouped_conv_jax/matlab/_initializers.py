"""Converts initial values in MATLAB's sizes to JAX initializers ``(key, shape, dtype)``."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from grouped_conv_jax import initializers
from grouped_conv_jax.convert import _mat_files
from grouped_conv_jax.initializers import Initializer

Size: TypeAlias = tuple[int, ...]


def same(shape: Size) -> Size:
    """Returns the shape unchanged: weights of grouped convolutions have MATLAB's axes."""
    return shape


def without_groups(shape: Size) -> Size:
    """Drops the group axis: convolutions have ``(h, w, C, F)`` weights and ``(1, 1, F)`` bias."""
    return shape[:-1]


def across_channels(shape: Size) -> Size:
    """Returns ``(1, 1, C)``, the size of batch-normalization parameters."""
    return (1, 1, *shape)


def column(shape: Size) -> Size:
    """Returns ``(K, 1)``, the size of a fully connected layer's bias."""
    return (*shape, 1)


def transposed(shape: Size) -> Size:
    """Returns ``(K, inputs)``, the size of a fully connected layer's weights."""
    return shape[::-1]


@dataclasses.dataclass(frozen=True, eq=False)
class InMatlabSize:
    """Initializer that takes its values from an array or a function ``func(sz)``.

    Attributes:
        property: name of the MATLAB property, for messages.
        values: the array in MATLAB's size, or a function of that size.
        size_of: maps the shape of the learnable to MATLAB's size.
    """

    property: str
    values: Any
    size_of: Callable[[Size], Size] = same

    def __call__(self, key: jax.Array, shape: Size, dtype: DTypeLike) -> jax.Array:
        """Returns the values in the shape of the learnable."""
        del key
        size, name, values = self.size_of(shape), self.property, self.values
        if callable(values):
            name, values = f"{name}(sz)", values(size)
        if not isinstance(values, np.ndarray | jax.Array) or jnp.iscomplexobj(values):
            raise TypeError(f"{name} must return a real array, got {values!r}")
        _mat_files.check_size(name, values.shape, size)
        array = jnp.asarray(values, dtype).reshape(size)
        return array.T if self.size_of is transposed else array.reshape(shape)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, InMatlabSize)
            and (self.property, self.size_of) == (other.property, other.size_of)
            and same_value(self.values, other.values)
        )

    def __hash__(self) -> int:
        return hash((self.property, self.size_of))


def initializer(
    property: str, given: Any, otherwise: Any, size_of: Callable[[Size], Size]
) -> Initializer:
    """Returns the initializer of a matrix ``(inputs, outputs)`` or of a vector.

    Args:
        property: name of the learnable in MATLAB.
        given: its values, or ``None``.
        otherwise: name of an initializer or a function of the size, used if ``given`` is ``None``.
        size_of: maps the shape of the learnable to MATLAB's size.
    """
    if given is not None:
        return InMatlabSize(property, given, size_of)
    if callable(otherwise):
        return InMatlabSize(f"{property}Initializer", otherwise, size_of)
    return _BY_NAME[otherwise]


def _as_pointwise(initialize: Initializer) -> Initializer:
    """Applies the initializer of a 1x1 convolution to a matrix ``(inputs, outputs)``."""

    def start(key: jax.Array, shape: Size, dtype: DTypeLike) -> jax.Array:
        return initialize(key, (1, 1, *shape, 1), dtype).reshape(shape)

    return start


_BY_NAME: dict[str, Initializer] = {
    "glorot": _as_pointwise(initializers.glorot),
    "he": _as_pointwise(initializers.he),
    "narrow-normal": initializers.narrow_normal,
    "zeros": initializers.zeros,
    "ones": initializers.ones,
}


def same_value(one: Any, other: Any) -> bool:
    """Returns whether two values are equal; arrays compare by dtype and elements."""
    if one is other:
        return True
    arrays = [isinstance(value, np.ndarray | jax.Array) for value in (one, other)]
    if any(arrays):
        return all(arrays) and one.dtype == other.dtype and np.array_equal(one, other)
    return bool(one == other)
