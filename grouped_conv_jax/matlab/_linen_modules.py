"""Linen modules of the layers that Flax lacks, and of whole networks."""

from typing import Any, TypeAlias

import flax.linen as nn
import jax

from grouped_conv_jax.matlab import _forward_pass, _operations
from grouped_conv_jax.matlab._layer import Layer

_Factors: TypeAlias = tuple[tuple[str, float, float], ...]


class Normalization(nn.Module):
    """Normalizes images by constant statistics, stored in the collection ``batch_stats``.

    Attributes:
        layer: an `ImageInputLayer`.
    """

    layer: Any

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the normalized images ``(B, H, W, C)``."""
        statistics = {
            name: self.variable("batch_stats", name, lambda s: s, start).value
            for name, start in self.layer.statistics().items()
        }
        return _operations.normalize(
            images, self.layer.InputSize, self.layer.Normalization, statistics
        )


class BatchNormalization(nn.BatchNorm):
    """Batch normalization with a layer's initial statistics and a decay for each of them.

    Attributes:
        layer: the `BatchNormalizationLayer` that the other attributes are derived from.
    """

    layer: Any = None

    @property
    def factors_of_learnables(self) -> _Factors:
        """Each parameter's name, learning-rate factor and L2 factor."""
        return self.layer.factors()

    @nn.compact
    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None, **kwargs: Any
    ) -> jax.Array:
        """Returns the activations ``(..., C)``, normalized, scaled and shifted."""
        channels = x.shape[-1]
        self.layer.check_channels(channels)
        if self.is_mutable_collection("batch_stats"):
            for name, start in self.layer.statistics(channels).items():
                if not self.has_variable("batch_stats", name):
                    self.put_variable("batch_stats", name, start)
        before = dict(self.variables.get("batch_stats", {}))
        y = super().__call__(x, use_running_average, **kwargs)
        if self.is_initializing() or nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        ):
            return y
        for name, decay in self.layer.decays():
            batch: jax.Array = self.get_variable("batch_stats", name)
            self.put_variable("batch_stats", name, (1 - decay) * before[name] + decay * batch)
        return y


class FullyConnected(nn.Dense):
    """Dense layer that flattens images in MATLAB's column-major order.

    Attributes:
        layer: the `FullyConnectedLayer` that the other attributes are derived from.
    """

    layer: Any = None

    @property
    def factors_of_learnables(self) -> _Factors:
        """Each parameter's name, learning-rate factor and L2 factor."""
        return self.layer.factors()

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns ``(B, K)`` for ``(B, H, W, C)`` or ``(B, F)``."""
        flat = _operations.flatten(x)
        self.layer.check_inputs(flat.shape[-1])
        return super().__call__(flat)


class Network(nn.Module):
    """A sequential network; each submodule has the name of its layer.

    Attributes:
        layers: the layers.
        data_format: one letter for each axis of the images.
    """

    layers: tuple[Layer, ...]
    data_format: str = "BSSC"

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the scores ``(B, K)`` of images.

        Args:
            images: a batch in ``data_format``.
            train: whether batch normalizations use the statistics of the mini-batch and update the
                running ones (collection ``batch_stats``, which must be mutable), and dropouts are
                active (RNG stream ``dropout``).
        """
        scores = self.logits(images, train)
        for layer in self.layers[len(_forward_pass.before_softmax(self.layers)) :]:
            scores = layer._linen(train)(scores)
        return scores

    @nn.compact
    def logits(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the input of the final softmax."""
        operations = {
            layer.Name: layer._linen(train) for layer in _forward_pass.before_softmax(self.layers)
        }
        return _forward_pass.run(operations, images, self.data_format)
