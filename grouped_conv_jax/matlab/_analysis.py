"""The sizes of a network's activations and learnables."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from grouped_conv_jax.matlab import _display
from grouped_conv_jax.matlab._layer import Size
from grouped_conv_jax.matlab._layer_array import layers
from grouped_conv_jax.matlab._trained_network import TrainedNetwork


class LayerAnalysis(NamedTuple):
    """The sizes that `analyze` reports for a layer.

    Attributes:
        name: name of the layer.
        description: summary of its operation.
        activations: size of its output for one image: ``(H, W, C)``, or ``(F,)``.
        learnables: size of each learnable, by name.
        num_learnables: total number of elements in the learnables.
    """

    name: str
    description: str
    activations: Size
    learnables: Mapping[str, Size]
    num_learnables: int


class Analysis(tuple[LayerAnalysis, ...]):
    """One `LayerAnalysis` per layer; prints as a table."""

    @property
    def num_learnables(self) -> int:
        """Total number of elements in the learnables of the network."""
        return sum(layer.num_learnables for layer in self)

    def __repr__(self) -> str:
        rows = [("", "Name", "Layer", "Activations", "Learnables", "Number")]
        for i, layer in enumerate(self, 1):
            learnables = ", ".join(
                f"{name} {_display.format_size(size)}" for name, size in layer.learnables.items()
            )
            activations = "x".join(map(str, layer.activations))
            number = str(layer.num_learnables)
            row = (str(i), layer.name, layer.description, activations, learnables, number)
            rows.append(row)
        return "\n".join([*_display.format_table(rows), "", f"learnables: {self.num_learnables}"])


def analyze(network: Any) -> Analysis:
    """Returns the sizes of a network's activations and learnables by abstract evaluation.

    Args:
        network: a layer array from `layers`, a list of layers, or a trained network.

    Raises:
        TypeError: ``network`` is something else.
        ValueError: the network does not begin with an image input, or its layers do not fit
            together.

    Example:
        >>> from grouped_conv_jax.matlab import *
        >>> network = layers(imageInputLayer([28, 28, 1]), convolution2dLayer(3, 8), reluLayer)
        >>> analysis = analyze(network)
        >>> analysis[1].activations, analysis[1].learnables["Weights"], analysis.num_learnables
        ((26, 26, 8), (3, 3, 1, 8), 80)
    """
    if isinstance(network, TrainedNetwork):
        network = network.Layers
    array = layers(network)
    return Analysis(
        LayerAnalysis(
            layer.Name,
            layer._describe(),
            activations,
            learnables,
            sum(map(math.prod, learnables.values())),
        )
        for layer, (activations, learnables) in zip(array, array._infer_sizes(), strict=True)
    )
