"""The forward pass that Linen and NNX networks share."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import jax

from grouped_conv_jax.matlab import _images
from grouped_conv_jax.matlab._layer import Layer, Operation
from grouped_conv_jax.matlab._simple_layers import ClassificationOutputLayer, SoftmaxLayer


def run(operations: Mapping[str, Operation], images: jax.Array, data_format: str) -> jax.Array:
    """Applies operations in sequence.

    Args:
        operations: the operations, by the names of their layers.
        images: a batch in ``data_format``.
        data_format: format of the images, and of the result if it has image axes.
    """
    x = _images.to_bssc("images", images, data_format)
    for name, operation in operations.items():
        with in_layer(name):
            x = operation(x)
    return _images.from_bssc(x, data_format) if x.ndim == 4 else x


@contextmanager
def in_layer(name: str) -> Iterator[None]:
    """Adds the layer's name to errors, as a note."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in layer {name!r}")
        raise


def before_softmax(layers: Sequence[Layer]) -> Sequence[Layer]:
    """Returns the layers without a trailing softmax and output layer."""
    end = len(layers)
    for kind in (ClassificationOutputLayer, SoftmaxLayer):
        end -= end > 0 and isinstance(layers[end - 1], kind)
    return layers[:end]
