"""Batch normalization."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from grouped_conv_jax.matlab import _linen_modules, _nnx_modules, _values
from grouped_conv_jax.matlab._initializers import across_channels, initializer
from grouped_conv_jax.matlab._layer import Layer, Operation, Size
from grouped_conv_jax.matlab._properties import Property

# Flax's names to MATLAB's, and where the running statistics start.
_STATISTICS = {"mean": "TrainedMean", "var": "TrainedVariance"}
_STARTS = {"mean": 0.0, "var": 1.0}
_ARRAY = _values.array(3)


class BatchNormalizationLayer(Layer):
    """Normalizes each channel over the batch, then scales and shifts it.

    `batchNormalizationLayer` is an alias of this class. Training normalizes with the mean and the
    (biased) variance of the mini-batch and moves the running statistics towards them by the shares
    ``MeanDecay`` and ``VarianceDecay``; inference normalizes with ``TrainedMean`` and
    ``TrainedVariance``.

    Args:
        *pairs: properties as ``'Name', value`` pairs.
        **properties: the writable properties below, as keyword arguments.

    Raises:
        TypeError: a name is unknown, read-only or repeated, or a value has the wrong type.
        ValueError: a value is invalid.

    Example:
        >>> from grouped_conv_jax.matlab import batchNormalizationLayer
        >>> print(batchNormalizationLayer(Name="BN1"))
          BatchNormalizationLayer with properties:
        <BLANKLINE>
                       Name: 'BN1'
                NumChannels: 'auto'
                TrainedMean: []
            TrainedVariance: []
        <BLANKLINE>
           Hyperparameters
                  MeanDecay: 0.1000
              VarianceDecay: 0.1000
                    Epsilon: 1.0000e-05
        <BLANKLINE>
           Learnable Parameters
                     Offset: []
                      Scale: []
    """

    NumChannels = Property("Number of channels, or 'auto'.", _values.auto_or_positive, "auto")
    TrainedMean = Property("(1, 1, channels), or None.", _ARRAY, None)
    TrainedVariance = Property("(1, 1, channels), or None.", _ARRAY, None)
    MeanDecay = Property("Weight of the batch in the running mean.", _values.unit, 0.1)
    VarianceDecay = Property("Weight of the batch in the running variance.", _values.unit, 0.1)
    Epsilon = Property("Constant added to the variance.", _values.positive, 1e-5)
    OffsetInitializer = Property(
        "Initializer: a name or a function.", _values.bias_initializer, "zeros"
    )
    ScaleInitializer = Property(
        "Initializer: a name or a function.", _values.bias_initializer, "ones"
    )
    Offset = Property("(1, 1, channels), or None.", _ARRAY, None)
    Scale = Property("(1, 1, channels), or None.", _ARRAY, None)
    OffsetLearnRateFactor = Property("Factor on the learning rate.", _values.nonnegative, 1.0)
    ScaleLearnRateFactor = Property("Factor on the learning rate.", _values.nonnegative, 1.0)
    OffsetL2Factor = Property("Factor on the L2 regularization.", _values.nonnegative, 1.0)
    ScaleL2Factor = Property("Factor on the L2 regularization.", _values.nonnegative, 1.0)

    _learnables = ("Offset", "Scale")
    _sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "": ("Name", "NumChannels", "TrainedMean", "TrainedVariance"),
        "Hyperparameters": ("MeanDecay", "VarianceDecay", "Epsilon"),
        "Learnable Parameters": _learnables,
    }
    _default_name = "batchnorm"
    _title = "Batch Normalization"

    def _resolve(self, values: dict[str, Any]) -> dict[str, Any]:
        for name in ("TrainedMean", "TrainedVariance", "Offset", "Scale"):
            array = values[name]
            if array is not None and (array.ndim != 3 or array.shape[:2] != (1, 1)):
                raise ValueError(f"{name} must have size (1, 1, channels), got {array.shape}")
        return values

    def check_channels(self, channels: int) -> None:
        """Raises ``ValueError`` unless the layer accepts this number of channels."""
        expected = {"NumChannels": self.NumChannels} | {
            f"{name} of size {array.shape}": array.shape[-1]
            for name in ("TrainedMean", "TrainedVariance", "Offset", "Scale")
            if (array := getattr(self, name)) is not None
        }
        for name, number in expected.items():
            if number not in ("auto", channels):
                raise ValueError(
                    f"{name} must match the number of input channels, got {channels} input channels"
                )

    def statistics(self, channels: int) -> dict[str, jax.Array]:
        """Returns the initial running statistics, under Flax's names."""
        arrays = {name: getattr(self, property) for name, property in _STATISTICS.items()}
        return {
            name: jnp.full(channels, _STARTS[name], jnp.float32)
            if array is None
            else jnp.asarray(array, jnp.float32).reshape(-1)
            for name, array in arrays.items()
        }

    def decays(self) -> tuple[tuple[str, float], ...]:
        """The share of the batch in each running statistic, under Flax's names."""
        return ("mean", self.MeanDecay), ("var", self.VarianceDecay)

    def factors(self) -> tuple[tuple[str, float, float], ...]:
        """Returns the learning-rate and L2 factor of each learnable, under Flax's names."""
        return (
            ("bias", self.OffsetLearnRateFactor, self.OffsetL2Factor),
            ("scale", self.ScaleLearnRateFactor, self.ScaleL2Factor),
        )

    def _arguments(self) -> dict[str, Any]:
        return {
            # Flax has one momentum for both statistics. With 0 they become the batch's, and the
            # modules move the running ones.
            "momentum": 0.0,
            "epsilon": self.Epsilon,
            "bias_init": initializer(
                "Offset", self.Offset, self.OffsetInitializer, across_channels
            ),
            "scale_init": initializer("Scale", self.Scale, self.ScaleInitializer, across_channels),
            "use_fast_variance": False,
        }

    def _linen(self, train: bool | None) -> Operation:
        return _linen_modules.BatchNormalization(
            use_running_average=None if train is None else not train,
            **self._arguments(),
            layer=self,
            name=self.Name or None,
        )

    def _nnx(self, size: Size, rngs: nnx.Rngs) -> Operation:
        self.check_channels(size[-1])
        module = _nnx_modules.BatchNormalization(size[-1], **self._arguments(), rngs=rngs)
        module.factors_of_learnables, module.decays = self.factors(), self.decays()
        for name, start in self.statistics(size[-1]).items():
            getattr(module, name).set_value(start)
        return module

    def _learned(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        params, statistics = variables["params"], variables["batch_stats"]
        arrays = {"Offset": params["bias"], "Scale": params["scale"]}
        arrays |= {property: statistics[name] for name, property in _STATISTICS.items()}
        return {name: array.reshape(across_channels(array.shape)) for name, array in arrays.items()}

    def _required(self) -> Sequence[str]:
        return (*self._learnables, *_STATISTICS.values())

    def _stored_sizes(self, learnables: Mapping[str, Size]) -> Mapping[str, Sequence[Size]]:
        return {name: [learnables["Scale"]] for name in self._required()}

    def _describe(self) -> str:
        channels = self.NumChannels if self.Scale is None else np.size(self.Scale)
        with_channels = "" if channels == "auto" else f" with {channels} channels"
        return f"Batch normalization{with_channels}"


batchNormalizationLayer = BatchNormalizationLayer  # noqa: N816
