"""NNX modules of the layers that Flax lacks, and of whole networks."""

from typing import Any, TypeAlias

import jax
from flax import nnx

from grouped_conv_jax.matlab import _forward_pass, _operations
from grouped_conv_jax.matlab._layer import Layer, Size

_Factors: TypeAlias = tuple[tuple[str, float, float], ...]


class Normalization(nnx.Module):
    """Normalizes images by constant statistics, stored as ``nnx.BatchStat``.

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
        """Returns the normalized images ``(B, H, W, C)``."""
        statistics = {name: getattr(self, name).get_value() for name in self.statistics}
        return _operations.normalize(images, self.input_size, self.normalization, statistics)


class BatchNormalization(nnx.BatchNorm):
    """Batch normalization with learning-rate and L2 factors, and a decay for each statistic.

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
    """Dense layer that flattens images in MATLAB's column-major order.

    Attributes:
        factors_of_learnables: each parameter's name, learning-rate factor and L2 factor.
    """

    factors_of_learnables: _Factors

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Returns ``(B, K)`` for ``(B, H, W, C)`` or ``(B, F)``."""
        return super().__call__(_operations.flatten(inputs), out_sharding)


class Network(nnx.Module):
    """A sequential network; each submodule is an attribute with the name of its layer.

    In training mode, the initial one, batch normalizations use the statistics of the mini-batch and
    update the running ones, and dropouts are active. ``eval()`` switches to the running statistics
    and disables dropouts.

    Args:
        layers: the layers.
        sizes: size of each layer's input, without the batch.
        data_format: one letter for each axis of the images.
        rngs: source of keys (streams ``params`` and ``dropout``).
    """

    def __init__(
        self, layers: tuple[Layer, ...], sizes: tuple[Size, ...], data_format: str, rngs: nnx.Rngs
    ) -> None:
        self.data_format = data_format
        self.names = tuple(layer.Name for layer in layers)
        self.num_before_softmax = len(_forward_pass.before_softmax(layers))
        for layer, size in zip(layers, sizes, strict=True):
            if hasattr(self, layer.Name):
                raise ValueError(f"Name must not be that of an attribute, got {layer.Name!r}")
            setattr(self, layer.Name, layer._nnx(size, rngs))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the scores ``(B, K)`` of images in ``data_format``."""
        scores = self.logits(images)
        for name in self.names[self.num_before_softmax :]:
            scores = getattr(self, name)(scores)
        return scores

    def logits(self, images: jax.Array) -> jax.Array:
        """Returns the input of the final softmax."""
        names = self.names[: self.num_before_softmax]
        operations = {name: getattr(self, name) for name in names}
        return _forward_pass.run(operations, images, self.data_format)
