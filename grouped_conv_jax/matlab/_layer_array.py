"""Layer arrays: networks whose layers follow one another."""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import flax.linen as nn
import jax
from flax import nnx

from grouped_conv_jax.matlab import _display, _images, _linen_modules, _nnx_modules, _passes
from grouped_conv_jax.matlab._image_input import ImageInputLayer
from grouped_conv_jax.matlab._layer import Layer, Size


class LayerArray(Sequence[Layer]):
    """Layers that follow one another, each with a name of its own; `layers` makes one.

    A sequence: ``network[0]`` is the first layer, whose properties can be set, and ``network[:-3]``
    is a list of layers, from which `layers` makes another network.

    Args:
        layers: as for `layers`.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = _named([_layer(entry, i) for i, entry in enumerate(layers)])

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> list[Layer]: ...
    def __getitem__(self, index: int | slice) -> Layer | list[Layer]:
        return self._layers[index]

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LayerArray) and self._layers == other._layers

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        rows = [
            (f"{i:>{len(str(len(self)))}}", f"'{layer.Name}'", layer._title, layer._describe())
            for i, layer in enumerate(self, 1)
        ]
        lines = [f"  {len(self)}x1 Layer array with layers:", ""]
        return "\n".join(lines + [f"    {line}" for line in _display.table(rows)])

    def to_linen(self, data_format: str = "BSSC") -> _linen_modules.Network:
        """Returns a Linen module whose modules have the names of the layers.

        Calling it gives scores, its method ``logits`` what goes into the last softmax. Both take
        ``train=True`` for training: batch normalizations then use the batch's own statistics and
        update the running ones (collection ``batch_stats``), and dropouts drop (random stream
        ``dropout``).

        Args:
            data_format: one letter an axis of the images, such as ``"BSSC"`` or ``"SSCB"``.

        Raises:
            ValueError: two layers have one name, or ``data_format`` is none of images.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from grouped_conv_jax.matlab import convolution2dLayer, layers, reluLayer
            >>> module = layers(convolution2dLayer(3, 8), reluLayer()).to_linen()
            >>> jax.tree.map(jnp.shape, module.init(jax.random.key(0), jnp.ones((1, 5, 5, 2))))
            {'params': {'conv': {'bias': (1, 1, 8, 1), 'weights': (3, 3, 2, 8, 1)}}}
        """
        _images.check_format(data_format)
        return _linen_modules.Network(tuple(_named(self._layers)), data_format)

    def to_nnx(self, *, rngs: nnx.Rngs, data_format: str = "BSSC") -> _nnx_modules.Network:
        """Returns an NNX module whose attributes have the names of the layers.

        ``train()``, the state of a new module, and ``eval()`` are as for any NNX module. Calling it
        gives scores, its method ``logits`` what goes into the last softmax.

        Args:
            rngs: where the initializers' keys come from, and what dropouts drop.
            data_format: one letter an axis of the images, such as ``"BSSC"`` or ``"SSCB"``.

        Raises:
            ValueError: the network does not begin with an image input, which says how large the
                images are; a name is that of an attribute of ``nnx.Module``; layers do not fit.

        Example:
            >>> from flax import nnx
            >>> from grouped_conv_jax.matlab import fullyConnectedLayer, imageInputLayer, layers
            >>> network = layers(imageInputLayer([5, 5, 2]), fullyConnectedLayer(3))
            >>> network.to_nnx(rngs=nnx.Rngs(0)).fc.kernel.shape
            (50, 3)
        """
        _images.check_format(data_format)
        sizes = (self._input_size("to_nnx"), *(size for size, _ in self._activations()))
        return _nnx_modules.Network(tuple(_named(self._layers)), sizes[:-1], data_format, rngs)

    def _input_size(self, wanted_by: str) -> Size:
        if not self._layers or not isinstance(self._layers[0], ImageInputLayer):
            raise ValueError(
                f"{wanted_by} must know the size of the images: the network must begin with "
                f"imageInputLayer, got {self._layers[0]._title if self._layers else 'no layers'}"
            )
        return self._layers[0].InputSize

    def _activations(self) -> list[tuple[Size, Mapping[str, Size]]]:
        """The sizes of each layer's activations and learnables; nothing is computed."""
        x = jax.ShapeDtypeStruct((1, *self._input_size("analyze")), jax.numpy.float32)
        found: list[tuple[Size, Mapping[str, Size]]] = []
        for layer in _named(self._layers):
            operation, variables = layer._linen(train=False), {}
            with _passes.in_layer(layer.Name):
                if isinstance(operation, nn.Module):
                    x, variables = jax.eval_shape(operation.init_with_output, jax.random.key(0), x)
                else:
                    x = jax.eval_shape(operation, x)
            learned = jax.eval_shape(layer._learned, variables)
            found.append((x.shape[1:], {name: learned[name].shape for name in layer._learnables}))
        return found


def layers(*layers: Any) -> LayerArray:
    """Makes a network of layers that follow one another.

    Layers are copied. Those without a name get the name that MATLAB's ``trainNetwork`` gives them:
    ``imageinput``, ``conv``, ``groupedconv``, ``batchnorm``, ``relu``, ``maxpool``, ``avgpool2d``,
    ``gapool``, ``dropout``, ``fc``, ``softmax``, ``classoutput``, numbered from 1 where there are
    several, as in ``conv_1``.

    Args:
        *layers: the layers, or one list of them. A layer that needs no arguments may stand without
            parentheses, as in MATLAB.

    Raises:
        TypeError: something is no layer.
        ValueError: two layers have one name.

    Example:
        >>> from grouped_conv_jax.matlab import *
        >>> network = layers([
        ...     imageInputLayer([28, 28, 1], Normalization="none"),
        ...     groupedConvolution2dLayer(3, 8, 1),
        ...     batchNormalizationLayer,
        ...     reluLayer,
        ...     fullyConnectedLayer(10),
        ...     softmaxLayer,
        ...     classificationLayer,
        ... ])
        >>> [layer.Name for layer in network]
        ['imageinput', 'groupedconv', 'batchnorm', 'relu', 'fc', 'softmax', 'classoutput']
        >>> print(layers(network[3:]))
          4x1 Layer array with layers:
        <BLANKLINE>
            1   'relu'          ReLU                    ReLU
            2   'fc'            Fully Connected         10 fully connected layer
            3   'softmax'       Softmax                 softmax
            4   'classoutput'   Classification Output   crossentropyex
    """
    if len(layers) == 1 and isinstance(layers[0], Sequence):
        layers = tuple(layers[0])
    return LayerArray(layers)


def _layer(entry: Any, index: int) -> Layer:
    made = entry() if isinstance(entry, type) and issubclass(entry, Layer) else entry
    if not isinstance(made, Layer):
        raise TypeError(f"layers[{index}] must be a layer, got {entry!r}")
    return made


def _named(layers: Sequence[Layer]) -> list[Layer]:
    """Copies of layers, where those without a name get one."""
    made = [copy.copy(layer) for layer in layers]
    for name, times in Counter(layer.Name for layer in made if layer.Name).items():
        if times > 1:
            raise ValueError(f"the layers' names must differ, got {name!r} {times} times")
    taken = {layer.Name for layer in made}
    unnamed = Counter(layer._default_name for layer in made if not layer.Name)
    for base, times in unnamed.items():
        names = _free_names(base, times, taken)
        for layer in made:
            if not layer.Name and layer._default_name == base:
                layer.Name = next(names)
    return made


def _free_names(base: str, times: int, taken: set[str]) -> Iterator[str]:
    if times == 1 and base not in taken:
        return iter([base])
    numbered = (f"{base}_{i}" for i in range(1, times + len(taken) + 1))
    return (name for name in numbered if name not in taken)
