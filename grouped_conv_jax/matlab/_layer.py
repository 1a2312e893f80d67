"""What all layers have in common."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import jax
from flax import nnx

from grouped_conv_jax.matlab import _values
from grouped_conv_jax.matlab._described import Described, Property
from grouped_conv_jax.matlab._initializers import same_value

Size: TypeAlias = tuple[int, ...]
Operation: TypeAlias = Callable[[Any], Any]
"""From a batch of activations to a batch: a Flax module or a function."""


class Layer(Described):
    """A layer under its MATLAB name.

    Properties can be set later too, under the same checks. Neither the case of their names matters
    nor that of words. Pairs are tuples here, and an array that is not set is ``None``.
    """

    Name = Property("Name of the layer, also in Flax; '' for none.", _values.text, "")
    NumInputs = Property("Number of inputs: one.", default=1, read_only=True)
    InputNames = Property("Names of the inputs.", default=("in",), read_only=True)
    NumOutputs = Property("Number of outputs: one.", default=1, read_only=True)
    OutputNames = Property("Names of the outputs.", default=("out",), read_only=True)

    _sections: ClassVar[Mapping[str, tuple[str, ...]]] = {"": ("Name",)}
    _default_name: ClassVar[str]
    """What `layers` calls it where it has no name."""
    _learnables: ClassVar[tuple[str, ...]] = ()
    """The properties that are learned."""
    _title: ClassVar[str]
    """What kind of layer it is, for tables."""

    def to_linen(self) -> Any:
        """Returns a Linen module with these properties and this name, or a function."""
        return self._linen(train=None)

    def _linen(self, train: bool | None) -> Operation:
        """As `to_linen`, where ``train`` is known already."""
        raise NotImplementedError

    def _nnx(self, size: Size, rngs: nnx.Rngs) -> Operation:
        """The NNX module, or the function, for activations of a size, without the batch."""
        del size, rngs
        return self._linen(train=None)

    def _describe(self) -> str:
        """What it does, for tables."""
        return self._title

    def _learned(self, variables: Mapping[str, Any]) -> dict[str, jax.Array]:
        """The properties that the variables of its Linen module hold, in MATLAB's sizes."""
        del variables
        return {}

    def _wanted(self) -> Sequence[str]:
        """The properties that must have values before it can predict."""
        return self._learnables

    def _stored_sizes(self, learnables: Mapping[str, Size]) -> Mapping[str, Sequence[Size]]:
        """The sizes that each property with numbers in a file may have."""
        return {name: [size] for name, size in learnables.items()}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Layer) or type(self) is not type(other):
            return NotImplemented
        return all(same_value(value, other._values[name]) for name, value in self._values.items())

    # Equal layers are of one type, and no property that is set changes it.
    def __hash__(self) -> int:
        return hash(type(self))
