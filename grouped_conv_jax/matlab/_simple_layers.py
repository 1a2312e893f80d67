"""Layers without learnables."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np
from flax import nnx

from grouped_conv_jax.matlab import _operations, _values
from grouped_conv_jax.matlab._layer import Layer, Operation, Size
from grouped_conv_jax.matlab._properties import Property


class ReLULayer(Layer):
    """Sets negative activations to zero.

    `reluLayer` is an alias of this class.

    Args:
        *pairs: properties as ``'Name', value`` pairs.
        **properties: ``Name``.

    Example:
        >>> from grouped_conv_jax.matlab import reluLayer
        >>> print(reluLayer(Name="relu1"))
          ReLULayer with properties:
        <BLANKLINE>
            Name: 'relu1'
    """

    _default_name = "relu"
    _title = "ReLU"

    def _linen(self, train: bool | None) -> Callable[[jax.Array], jax.Array]:
        del train
        return nn.relu


class GlobalAveragePooling2DLayer(Layer):
    """Averages each channel over height and width.

    `globalAveragePooling2dLayer` is an alias of this class.

    Args:
        *pairs: properties as ``'Name', value`` pairs.
        **properties: ``Name``.

    Example:
        >>> import jax.numpy as jnp
        >>> from grouped_conv_jax.matlab import globalAveragePooling2dLayer
        >>> globalAveragePooling2dLayer().to_linen()(jnp.ones((2, 7, 7, 16))).shape
        (2, 1, 1, 16)
    """

    _default_name = "gapool"
    _title = "2-D Global Average Pooling"

    def _linen(self, train: bool | None) -> Callable[[jax.Array], jax.Array]:
        del train
        return _operations.global_average

    def _describe(self) -> str:
        return "2-D global average pooling"


class DropoutLayer(Layer):
    """Zeroes activations at random in training and scales the others up.

    `dropoutLayer` is an alias of this class.

    Args:
        probability: probability of zeroing an activation, in [0, 1); 0.5 by default.
        *pairs: properties as ``'Name', value`` pairs.
        **properties: ``Name``.

    Raises:
        TypeError: a name is unknown, read-only or repeated, or a value has the wrong type.
        ValueError: a value is invalid.

    Example:
        >>> from grouped_conv_jax.matlab import dropoutLayer
        >>> print(dropoutLayer(0.4, 'Name', 'drop1'))
          DropoutLayer with properties:
        <BLANKLINE>
                   Name: 'drop1'
        <BLANKLINE>
           Hyperparameters
            Probability: 0.4000
    """

    Probability = Property("Probability of zeroing an activation.", _values.fraction, 0.5)

    _positional = ("Probability",)
    _sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "": ("Name",),
        "Hyperparameters": ("Probability",),
    }
    _default_name = "dropout"
    _title = "Dropout"

    def _linen(self, train: bool | None) -> nn.Dropout:
        deterministic = None if train is None else not train
        return nn.Dropout(self.Probability, deterministic=deterministic, name=self.Name or None)

    def _nnx(self, size: Size, rngs: nnx.Rngs) -> nnx.Dropout:
        del size
        return nnx.Dropout(self.Probability, rngs=rngs)

    def _describe(self) -> str:
        return f"{100 * self.Probability:g}% dropout"


class SoftmaxLayer(Layer):
    """Applies softmax over the channels.

    `softmaxLayer` is an alias of this class.

    Args:
        *pairs: properties as ``'Name', value`` pairs.
        **properties: ``Name``.

    Example:
        >>> import jax.numpy as jnp
        >>> from grouped_conv_jax.matlab import softmaxLayer
        >>> softmaxLayer(Name="s").to_linen()(jnp.zeros((1, 4))).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """

    _default_name = "softmax"
    _title = "Softmax"

    def _linen(self, train: bool | None) -> Callable[[jax.Array], jax.Array]:
        del train
        return nn.softmax

    def _describe(self) -> str:
        return "softmax"


def _classes(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return _values.word("auto", also="a 1-D array of labels")(name, value)
    labels = np.asarray(value)
    if labels.ndim != 1 or len(np.unique(labels)) != len(labels):
        raise ValueError(f"{name} must be a 1-D array of different labels, got {value!r}")
    return labels


class ClassificationOutputLayer(Layer):
    """Declares the classes of a classifier, trained with the cross-entropy loss.

    `classificationLayer` is an alias of this class.

    Args:
        *pairs: properties as ``'Name', value`` pairs.
        **properties: ``Name``, and ``Classes``, the labels in the order of the scores; ``'auto'``
            stands for the sorted labels of the training data.

    Raises:
        TypeError: a name is unknown, read-only or repeated, or a value has the wrong type.
        ValueError: a value is invalid.

    Example:
        >>> from grouped_conv_jax.matlab import classificationLayer
        >>> print(classificationLayer(Classes=["cat", "dog"]))
          ClassificationOutputLayer with properties:
        <BLANKLINE>
                    Name: ''
                 Classes: [2x1 categorical]
              OutputSize: 2
        <BLANKLINE>
           Hyperparameters
            LossFunction: 'crossentropyex'
    """

    Classes = Property("The labels, or 'auto'.", _classes, "auto")
    OutputSize = Property("Number of classes, or 'auto'.", default="auto", read_only=True)
    LossFunction = Property("Loss, cross-entropy.", default="crossentropyex", read_only=True)

    _sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "": ("Name", "Classes", "OutputSize"),
        "Hyperparameters": ("LossFunction",),
    }
    _default_name = "classoutput"
    _title = "Classification Output"

    def _resolve(self, values: dict[str, Any]) -> dict[str, Any]:
        classes = values["Classes"]
        return values | {"OutputSize": "auto" if isinstance(classes, str) else len(classes)}

    def _linen(self, train: bool | None) -> Operation:
        del train
        return _operations.unchanged

    def _describe(self) -> str:
        if isinstance(self.Classes, str):
            return self.LossFunction
        first, *others = (f"'{label}'" for label in self.Classes)
        if len(others) <= 1:
            return " and ".join([f"{self.LossFunction} with classes {first}", *others])
        return f"{self.LossFunction} with {first} and {len(others)} other classes"


reluLayer = ReLULayer  # noqa: N816
globalAveragePooling2dLayer = GlobalAveragePooling2DLayer  # noqa: N816
dropoutLayer = DropoutLayer  # noqa: N816
softmaxLayer = SoftmaxLayer  # noqa: N816
classificationLayer = ClassificationOutputLayer  # noqa: N816
