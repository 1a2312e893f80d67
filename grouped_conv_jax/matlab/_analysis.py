"""The sizes of a network's activations and learnables."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from grouped_conv_jax.matlab import _display
from grouped_conv_jax.matlab._layer import Size
from grouped_conv_jax.matlab._layer_array import LayerArray, layers
from grouped_conv_jax.matlab._trained_network import TrainedNetwork


class LayerAnalysis(NamedTuple):
    """What `analyze` finds out about a layer.

    Attributes:
        name: of the layer.
        description: what it does.
        activations: the size of its output for one image: ``(H, W, C)``, or ``(F,)``.
        learnables: the sizes of its learnables by their names.
        num_learnables: how many numbers they hold.
    """

    name: str
    description: str
    activations: Size
    learnables: Mapping[str, Size]
    num_learnables: int


class Analysis(tuple[LayerAnalysis, ...]):
    """One `LayerAnalysis` a layer; printed, a table."""

    @property
    def num_learnables(self) -> int:
        """How many numbers the learnables of the network hold."""
        return sum(layer.num_learnables for layer in self)

    def __repr__(self) -> str:
        rows = [("", "Name", "Layer", "Activations", "Learnables", "Number")]
        for i, layer in enumerate(self, 1):
            learnables = ", ".join(
                f"{name} {_display.size(size)}" for name, size in layer.learnables.items()
            )
            activations = "x".join(map(str, layer.activations))
            number = str(layer.num_learnables)
            row = (str(i), layer.name, layer.description, activations, learnables, number)
            rows.append(row)
        return "\n".join([*_display.table(rows), "", f"learnables: {self.num_learnables}"])


def analyze(network: Any) -> Analysis:
    """Returns the sizes of a network's activations and learnables, without computing anything.

    Args:
        network: what `layers` returns, a list of layers, or a trained network.

    Raises:
        TypeError: ``network`` is something else.
        ValueError: it does not begin with an image input, or layers do not fit.

    Example:
        >>> from grouped_conv_jax.matlab import *
        >>> network = layers(imageInputLayer([28, 28, 1]), convolution2dLayer(3, 8), reluLayer)
        >>> analysis = analyze(network)
        >>> analysis[1].activations, analysis[1].learnables["Weights"], analysis.num_learnables
        ((26, 26, 8), (3, 3, 1, 8), 80)
    """
    if isinstance(network, TrainedNetwork):
        network = network.Layers
    array = network if isinstance(network, LayerArray) else layers(network)
    return Analysis(
        LayerAnalysis(
            layer.Name,
            layer._describe(),
            activations,
            learnables,
            sum(map(math.prod, learnables.values())),
        )
        for layer, (activations, learnables) in zip(array, array._activations(), strict=True)
    )
