"""Initial values in MATLAB's sizes as initializers of JAX's form ``(key, shape, dtype)``."""

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
    """Grouped convolutions have MATLAB's axes."""
    return shape


def without_groups(shape: Size) -> Size:
    """Of a convolution: ``(h, w, C, F)`` and ``(1, 1, F)``, without the last axis, one group."""
    return shape[:-1]


def across_channels(shape: Size) -> Size:
    """Of a batch normalization: ``(1, 1, C)``."""
    return (1, 1, *shape)


def column(shape: Size) -> Size:
    """Of a fully connected layer's bias: ``(K, 1)``."""
    return (*shape, 1)


def transposed(shape: Size) -> Size:
    """Of a fully connected layer's weights: ``(K, inputs)``."""
    return shape[::-1]


@dataclasses.dataclass(frozen=True, eq=False)
class InMatlabSize:
    """An array or a function ``func(sz)`` in MATLAB's size as an initializer.

    Attributes:
        property: where it is from, for messages.
        values: the array, or the function.
        size_of: from the shape of the learnable to MATLAB's size.
    """

    property: str
    values: Any
    size_of: Callable[[Size], Size] = same

    def __call__(self, key: jax.Array, shape: Size, dtype: DTypeLike) -> jax.Array:
        """Returns the values in the learnable's shape; they have no use for the key."""
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
    """The initializer of a learnable of two axes, ``(inputs, outputs)``, or of one.

    Args:
        property: the learnable's name in MATLAB.
        given: its values, or ``None``.
        otherwise: a word or a function of the size, which counts where no values are given.
        size_of: from the shape of the learnable to MATLAB's size.
    """
    if given is not None:
        return InMatlabSize(property, given, size_of)
    if callable(otherwise):
        return InMatlabSize(f"{property}Initializer", otherwise, size_of)
    return _WORDS[otherwise]


def _as_pointwise(initialize: Initializer) -> Initializer:
    """The initializer of a 1x1 convolution for weights ``(inputs, outputs)``."""

    def start(key: jax.Array, shape: Size, dtype: DTypeLike) -> jax.Array:
        return initialize(key, (1, 1, *shape, 1), dtype).reshape(shape)

    return start


_WORDS: dict[str, Initializer] = {
    "glorot": _as_pointwise(initializers.glorot),
    "he": _as_pointwise(initializers.he),
    "narrow-normal": initializers.narrow_normal,
    "zeros": initializers.zeros,
    "ones": initializers.ones,
}


def same_value(one: Any, other: Any) -> bool:
    """Whether two values are equal, arrays among them."""
    if one is other:
        return True
    arrays = [isinstance(value, np.ndarray | jax.Array) for value in (one, other)]
    if any(arrays):
        return all(arrays) and one.dtype == other.dtype and np.array_equal(one, other)
    return bool(one == other)
