"""The fully connected layer."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from flax import nnx

from grouped_conv_jax.matlab import _linen_modules, _nnx_modules, _values
from grouped_conv_jax.matlab._initializers import column, initializer, transposed
from grouped_conv_jax.matlab._layer import Layer, Operation, Size
from grouped_conv_jax.matlab._properties import Property


class FullyConnectedLayer(Layer):
    """Multiplies the flattened activations of each image by a matrix and adds a bias.

    `fullyConnectedLayer` is an alias of this class. Images are flattened in MATLAB's column-major
    order, with the height varying fastest, so ``Weights`` are interchangeable with MATLAB's.

    Args:
        outputSize: number of outputs.
        *pairs: properties as ``'Name', value`` pairs.
        **properties: the writable properties below, as keyword arguments.

    Raises:
        TypeError: a name is unknown, read-only or repeated, or a value has the wrong type.
        ValueError: a value is invalid.

    Example:
        >>> from grouped_conv_jax.matlab import fullyConnectedLayer
        >>> print(fullyConnectedLayer(10, 'Name', 'fc1'))
          FullyConnectedLayer with properties:
        <BLANKLINE>
                  Name: 'fc1'
        <BLANKLINE>
           Hyperparameters
             InputSize: 'auto'
            OutputSize: 10
        <BLANKLINE>
           Learnable Parameters
               Weights: []
                  Bias: []
    """

    InputSize = Property(
        "Number of inputs; 'auto' until the weights are set.", default="auto", read_only=True
    )
    OutputSize = Property("Number of outputs.", _values.integer(1))
    WeightsInitializer = Property(
        "Initializer: a name or a function.", _values.weights_initializer, "glorot"
    )
    BiasInitializer = Property(
        "Initializer: a name or a function.", _values.bias_initializer, "zeros"
    )
    Weights = Property("(outputs, inputs), or None.", _values.array(2), None)
    Bias = Property("(outputs, 1), or None.", _values.array(2), None)
    WeightLearnRateFactor = Property("Factor on the learning rate.", _values.nonnegative, 1.0)
    BiasLearnRateFactor = Property("Factor on the learning rate.", _values.nonnegative, 1.0)
    WeightL2Factor = Property("Factor on the L2 regularization.", _values.nonnegative, 1.0)
    BiasL2Factor = Property("Factor on the L2 regularization.", _values.nonnegative, 0.0)

    _positional = ("OutputSize",)
    _learnables = ("Weights", "Bias")
    _sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "": ("Name",),
        "Hyperparameters": ("InputSize", "OutputSize"),
        "Learnable Parameters": _learnables,
    }
    _default_name = "fc"
    _title = "Fully Connected"

    def _resolve(self, values: dict[str, Any]) -> dict[str, Any]:
        outputs, weights, bias = values["OutputSize"], values["Weights"], values["Bias"]
        if weights is not None and (weights.ndim != 2 or weights.shape[0] != outputs):
            raise ValueError(f"Weights must have size ({outputs}, inputs), got {weights.shape}")
        if bias is not None and bias.shape != (outputs, 1):
            raise ValueError(f"Bias must have size ({outputs}, 1), got {bias.shape}")
        return values | {"InputSize": "auto" if weights is None else weights.shape[1]}

    def check_inputs(self, inputs: int) -> None:
        """Raises ``ValueError`` unless the layer accepts this number of inputs."""
        if self.InputSize not in ("auto", inputs):
            raise ValueError(
                f"Weights of size {self.Weights.shape} must have as many columns as there are "
                f"inputs, got {inputs} inputs"
            )

    def factors(self) -> tuple[tuple[str, float, float], ...]:
        """Returns the learning-rate and L2 factor of each learnable, under Flax's names."""
        return (
            ("kernel", self.WeightLearnRateFactor, self.WeightL2Factor),
            ("bias", self.BiasLearnRateFactor, self.BiasL2Factor),
        )

    def _arguments(self) -> dict[str, Any]:
        return {
            "kernel_init": initializer(
                "Weights", self.Weights, self.WeightsInitializer, transposed
            ),
            "bias_init": initializer("Bias", self.Bias, self.BiasInitializer, column),
        }

    def _linen(self, train: bool | None) -> Operation:
        del train
        return _linen_modules.FullyConnected(
            self.OutputSize, **self._arguments(), layer=self, name=self.Name or None
        )

    def _nnx(self, size: Size, rngs: nnx.Rngs) -> Operation:
        inputs = math.prod(size)
        self.check_inputs(inputs)
        module = _nnx_modules.FullyConnected(
            inputs, self.OutputSize, **self._arguments(), rngs=rngs
        )
        module.factors_of_learnables = self.factors()
        return module

    def _learned(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        params = variables["params"]
        return {"Weights": params["kernel"].T, "Bias": params["bias"].reshape(-1, 1)}

    def _describe(self) -> str:
        return f"{self.OutputSize} fully connected layer"


fullyConnectedLayer = FullyConnectedLayer  # noqa: N816
