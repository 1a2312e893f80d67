"""Base class of the layers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import jax
from flax import nnx

from grouped_conv_jax.matlab import _values
from grouped_conv_jax.matlab._initializers import same_value
from grouped_conv_jax.matlab._properties import HasProperties, Property

Size: TypeAlias = tuple[int, ...]
Operation: TypeAlias = Callable[[Any], Any]
"""Maps a batch of activations to a batch of activations: a Flax module or a function."""


class Layer(HasProperties):
    """Base of all layers.

    Properties can be assigned after construction, with the same checks. Property names and string
    values are case-insensitive. Pairs are returned as tuples, and an unset array is ``None``.
    """

    Name = Property("Name of the layer, also in Flax; '' for none.", _values.text, "")
    NumInputs = Property("Number of inputs, 1.", default=1, read_only=True)
    InputNames = Property("Names of the inputs.", default=("in",), read_only=True)
    NumOutputs = Property("Number of outputs, 1.", default=1, read_only=True)
    OutputNames = Property("Names of the outputs.", default=("out",), read_only=True)

    _sections: ClassVar[Mapping[str, tuple[str, ...]]] = {"": ("Name",)}
    _default_name: ClassVar[str]
    """The name that `layers` gives to an unnamed layer."""
    _learnables: ClassVar[tuple[str, ...]] = ()
    """The properties that training updates."""
    _title: ClassVar[str]
    """The kind of the layer, for tables."""

    def to_linen(self) -> Any:
        """Returns a Linen module with the properties and the name of this layer, or a function."""
        return self._linen(train=None)

    def _linen(self, train: bool | None) -> Operation:
        """Like `to_linen`, but fixes the mode to training or inference unless it is ``None``."""
        raise NotImplementedError

    def _nnx(self, size: Size, rngs: nnx.Rngs) -> Operation:
        """Returns an NNX module or a function; ``size`` is that of its input, without the batch."""
        del size, rngs
        return self._linen(train=None)

    def _describe(self) -> str:
        """Returns a short description of the operation, for tables."""
        return self._title

    def _learned(self, variables: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Returns the properties held in the Linen module's variables, in MATLAB's sizes."""
        del variables
        return {}

    def _required(self) -> Sequence[str]:
        """Returns the properties that must be set before the layer can predict."""
        return self._learnables

    def _stored_sizes(self, learnables: Mapping[str, Size]) -> Mapping[str, Sequence[Size]]:
        """Returns the sizes that each array property may have in a file."""
        return {name: [size] for name, size in learnables.items()}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Layer) or type(self) is not type(other):
            return NotImplemented
        return all(same_value(value, other._values[name]) for name, value in self._values.items())

    # Properties are mutable, so only the type contributes to the hash.
    def __hash__(self) -> int:
        return hash(type(self))
