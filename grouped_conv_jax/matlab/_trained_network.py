"""Trained networks, and prediction with them."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from grouped_conv_jax.matlab import _images, _linen_modules, _values
from grouped_conv_jax.matlab._layer_array import LayerArray


class TrainedNetwork:
    """A network with weights, as returned by `trainNetwork` and `assembleNetwork`.

    Attributes:
        Layers: the layers, with their learnables, statistics and classes. They can be trained
            further or combined with other layers.
        Classes: the labels, in the order of the scores.
        module: the Linen module.
        variables: the variables of the module, ``params`` and ``batch_stats``.
        info: the training history, one element per iteration: ``TrainingLoss``,
            ``TrainingAccuracy`` in percent, ``ValidationLoss``, ``ValidationAccuracy`` (NaN in
            iterations without validation) and ``BaseLearnRate``.
    """

    def __init__(
        self,
        layers: LayerArray,
        variables: Mapping[str, Any],
        info: dict[str, npt.NDArray[np.float64]],
    ) -> None:
        self.module = layers.to_linen()
        self.variables = variables
        self.Layers = _with_variables(layers, variables)
        self.Classes = self.Layers[-1].Classes
        self.info = info

    def __repr__(self) -> str:
        return repr(self.Layers).replace("Layer array with", "trained network with", 1)


def predict(
    network: TrainedNetwork,
    images: Any,
    *,
    data_format: str = "BSSC",
    MiniBatchSize: int = 128,  # noqa: N803
) -> npt.NDArray[np.float32]:
    """Returns the scores of images.

    Args:
        network: a trained network.
        images: integers or floating-point numbers, ``(B, H, W, C)`` unless ``data_format`` says
            otherwise.
        data_format: one letter for each axis.
        MiniBatchSize: number of images to process at once.

    Returns:
        ``(B, classes)``, with the classes in the order of ``network.Classes``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the images do not have the input size of the network.

    Example:
        >>> import numpy as np
        >>> from grouped_conv_jax.matlab import *
        >>> trained = assembleNetwork([
        ...     imageInputLayer([1, 2, 1], Normalization="none"),
        ...     fullyConnectedLayer(2, Weights=np.eye(2), Bias=np.zeros((2, 1))),
        ...     softmaxLayer,
        ...     classificationLayer(Classes=["left", "right"]),
        ... ])
        >>> predict(trained, np.zeros((3, 1, 2, 1), np.float32)).tolist()
        [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]
    """
    if not isinstance(network, TrainedNetwork):
        raise TypeError(f"network must be a trained network, got {type(network).__name__}")
    batch_size = _values.integer(1)("MiniBatchSize", MiniBatchSize)
    canonical = _images.check_batch("images", images, data_format)
    return forward(network.module, network.variables, canonical, batch_size)


def classify(
    network: TrainedNetwork,
    images: Any,
    *,
    data_format: str = "BSSC",
    MiniBatchSize: int = 128,  # noqa: N803
) -> npt.NDArray[Any]:
    """Returns the most probable class of each image.

    Args:
        network: a trained network.
        images: as for `predict`.
        data_format: one letter for each axis.
        MiniBatchSize: number of images to process at once.

    Returns:
        ``(B,)``, elements of ``network.Classes``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the images do not have the input size of the network.

    Example:
        >>> import numpy as np
        >>> from grouped_conv_jax.matlab import *
        >>> trained = assembleNetwork([
        ...     imageInputLayer([1, 2, 1], Normalization="none"),
        ...     fullyConnectedLayer(2, Weights=np.eye(2), Bias=np.zeros((2, 1))),
        ...     softmaxLayer,
        ...     classificationLayer(Classes=["left", "right"]),
        ... ])
        >>> classify(trained, np.float32([[[[0], [5]]], [[[5], [0]]]])).tolist()
        ['right', 'left']
    """
    scores = predict(network, images, data_format=data_format, MiniBatchSize=MiniBatchSize)
    return network.Classes[scores.argmax(-1)]


def forward(
    module: _linen_modules.Network,
    variables: Mapping[str, Any],
    images: npt.NDArray[Any],
    batch_size: int,
) -> npt.NDArray[np.float32]:
    """Returns the scores of images ``(B, H, W, C)``, computed in mini-batches."""
    scores = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        filled = batch.astype(np.float32)
        # Fill up a smaller last batch, to compile for one size only.
        if start and len(batch) < batch_size:
            filled = np.resize(filled, (batch_size, *batch.shape[1:]))
        scores.append(np.asarray(_apply(module, variables, filled))[: len(batch)])
    return np.concatenate(scores)


@functools.partial(jax.jit, static_argnums=0)
def _apply(
    module: _linen_modules.Network, variables: Mapping[str, Any], images: jax.Array
) -> jax.Array:
    return jnp.asarray(module.apply(variables, images))


def _with_variables(layers: LayerArray, variables: Mapping[str, Any]) -> LayerArray:
    """Copies the layers, with properties from the variables."""
    made = LayerArray(layers)
    for layer in made:
        own = {kind: tree[layer.Name] for kind, tree in variables.items() if layer.Name in tree}
        if own:
            learned = layer._learned(own)
            layer._set({name: np.asarray(array) for name, array in learned.items()})
    return made
