"""A pass through the layers, the same for Linen and for NNX."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import jax

from grouped_conv_jax.matlab import _images
from grouped_conv_jax.matlab._layer import Layer, Operation
from grouped_conv_jax.matlab._simple_layers import ClassificationOutputLayer, SoftmaxLayer


def run(operations: Mapping[str, Operation], images: jax.Array, data_format: str) -> jax.Array:
    """Runs operations one after the other.

    Args:
        operations: by the names of their layers.
        images: with their axes as ``data_format`` says.
        data_format: also of the result, where that is images.
    """
    x = _images.to_bssc("images", images, data_format)
    for name, operation in operations.items():
        with in_layer(name):
            x = operation(x)
    return _images.from_bssc(x, data_format) if x.ndim == 4 else x


@contextmanager
def in_layer(name: str) -> Iterator[None]:
    """Adds to an error in which layer it was."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in layer {name!r}")
        raise


def before_softmax(layers: Sequence[Layer]) -> Sequence[Layer]:
    """The layers without a softmax and an output layer at their end."""
    end = len(layers)
    for kind in (ClassificationOutputLayer, SoftmaxLayer):
        end -= end > 0 and isinstance(layers[end - 1], kind)
    return layers[:end]
