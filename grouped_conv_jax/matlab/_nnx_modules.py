"""NNX modules for layers that differ from Flax's, and for whole networks."""

from typing import Any, TypeAlias

import jax
from flax import nnx

from grouped_conv_jax.matlab import _operations, _passes
from grouped_conv_jax.matlab._layer import Layer, Size

_Factors: TypeAlias = tuple[tuple[str, float, float], ...]


class Normalization(nnx.Module):
    """Normalizes images by statistics, which are ``nnx.BatchStat`` and never change.

    Args:
        layer: an `ImageInputLayer`.
    """

    def __init__(self, layer: Any) -> None:
        self.input_size = layer.InputSize
        self.normalization = layer.Normalization
        statistics = layer.statistics()
        self.statistics = tuple(statistics)
        for name, start in statistics.items():
            setattr(self, name, nnx.BatchStat(start))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns ``(B, H, W, C)`` normalized."""
        statistics = {name: getattr(self, name).get_value() for name in self.statistics}
        return _operations.normalize(images, self.input_size, self.normalization, statistics)


class BatchNormalization(nnx.BatchNorm):
    """A batch normalization with factors, and with a decay for each running statistic.

    Attributes:
        factors_of_learnables: each parameter's name, learning-rate factor and L2 factor.
        decays: each statistic's name and the share of the batch in it.
    """

    factors_of_learnables: _Factors
    decays: tuple[tuple[str, float], ...]

    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None, **kwargs: Any
    ) -> jax.Array:
        """Returns ``(..., C)`` normalized, scaled and shifted."""
        before = {name: getattr(self, name).get_value() for name, _ in self.decays}
        y = super().__call__(x, use_running_average, **kwargs)
        if self.use_running_average if use_running_average is None else use_running_average:
            return y
        for name, decay in self.decays:
            statistic = getattr(self, name)
            statistic.set_value((1 - decay) * before[name] + decay * statistic.get_value())
        return y


class FullyConnected(nnx.Linear):
    """A dense layer that takes images too, in MATLAB's order of pixels.

    Attributes:
        factors_of_learnables: each parameter's name, learning-rate factor and L2 factor.
    """

    factors_of_learnables: _Factors

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Returns ``(B, K)`` for ``(B, H, W, C)`` or ``(B, F)``."""
        return super().__call__(_operations.flatten(inputs), out_sharding)


class Network(nnx.Module):
    """Layers one after the other; each is an attribute with the name of its layer.

    ``train()``, the state of a new module, lets each batch's own statistics normalize it, updates
    the running ones and lets dropouts drop; ``eval()`` uses the running statistics.

    Args:
        layers: the layers.
        sizes: of the activations that go into each, without the batch.
        data_format: one letter an axis of the images.
        rngs: where the initializers' keys come from (streams ``params`` and ``dropout``).
    """

    def __init__(
        self, layers: tuple[Layer, ...], sizes: tuple[Size, ...], data_format: str, rngs: nnx.Rngs
    ) -> None:
        self.data_format = data_format
        self.names = tuple(layer.Name for layer in layers)
        self.num_before_softmax = len(_passes.before_softmax(layers))
        for layer, size in zip(layers, sizes, strict=True):
            if hasattr(self, layer.Name):
                raise ValueError(f"Name must not be that of an attribute, got {layer.Name!r}")
            setattr(self, layer.Name, layer._nnx(size, rngs))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the scores ``(B, K)`` of images, with their axes as ``data_format`` says."""
        scores = self.logits(images)
        for name in self.names[self.num_before_softmax :]:
            scores = getattr(self, name)(scores)
        return scores

    def logits(self, images: jax.Array) -> jax.Array:
        """Returns what goes into the last softmax."""
        names = self.names[: self.num_before_softmax]
        operations = {name: getattr(self, name) for name in names}
        return _passes.run(operations, images, self.data_format)
