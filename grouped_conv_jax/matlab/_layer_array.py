"""Layer arrays: sequential networks."""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import flax.linen as nn
import jax
from flax import nnx

from grouped_conv_jax.matlab import _display, _forward_pass, _images, _linen_modules, _nnx_modules
from grouped_conv_jax.matlab._image_input import ImageInputLayer
from grouped_conv_jax.matlab._layer import Layer, Size


class LayerArray(Sequence[Layer]):
    """A sequential network of layers with distinct names; `layers` constructs one.

    Behaves as a sequence: ``network[0]`` is the first layer, whose properties can be assigned, and
    ``network[:-3]`` is a list of layers, which can be passed to `layers`.

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
        return "\n".join(lines + [f"    {line}" for line in _display.format_table(rows)])

    def to_linen(self, data_format: str = "BSSC") -> _linen_modules.Network:
        """Returns a Linen module whose submodules have the names of the layers.

        Calling the module returns scores; its method ``logits`` returns the input of the final
        softmax. With ``train=True``, batch normalizations use the statistics of the mini-batch and
        update the running ones (collection ``batch_stats``), and dropouts are active (RNG stream
        ``dropout``).

        Args:
            data_format: one letter for each axis of the images, such as ``"BSSC"`` or ``"SSCB"``.

        Raises:
            ValueError: two layers have the same name, or ``data_format`` does not describe images.

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

        Calling the module returns scores; its method ``logits`` returns the input of the final
        softmax. ``train()``, the initial mode, and ``eval()`` act as for any NNX module.

        Args:
            rngs: source of the keys of the initializers and the dropouts.
            data_format: one letter for each axis of the images, such as ``"BSSC"`` or ``"SSCB"``.

        Raises:
            ValueError: the network does not begin with an image input, which declares the size of
                the images; a layer has the name of an attribute of ``nnx.Module``; or the layers
                do not fit together.

        Example:
            >>> from flax import nnx
            >>> from grouped_conv_jax.matlab import fullyConnectedLayer, imageInputLayer, layers
            >>> network = layers(imageInputLayer([5, 5, 2]), fullyConnectedLayer(3))
            >>> network.to_nnx(rngs=nnx.Rngs(0)).fc.kernel.shape
            (50, 3)
        """
        _images.check_format(data_format)
        sizes = (self._input_size("to_nnx"), *(size for size, _ in self._infer_sizes()))
        return _nnx_modules.Network(tuple(_named(self._layers)), sizes[:-1], data_format, rngs)

    def _input_size(self, wanted_by: str) -> Size:
        if not self._layers or not isinstance(self._layers[0], ImageInputLayer):
            raise ValueError(
                f"{wanted_by} must know the size of the images: the network must begin with "
                f"imageInputLayer, got {self._layers[0]._title if self._layers else 'no layers'}"
            )
        return self._layers[0].InputSize

    def _infer_sizes(self) -> list[tuple[Size, Mapping[str, Size]]]:
        """Returns the sizes of each layer's activations and learnables by abstract evaluation."""
        x = jax.ShapeDtypeStruct((1, *self._input_size("analyze")), jax.numpy.float32)
        found: list[tuple[Size, Mapping[str, Size]]] = []
        for layer in _named(self._layers):
            operation, variables = layer._linen(train=False), {}
            with _forward_pass.in_layer(layer.Name):
                if isinstance(operation, nn.Module):
                    x, variables = jax.eval_shape(operation.init_with_output, jax.random.key(0), x)
                else:
                    x = jax.eval_shape(operation, x)
            learned = jax.eval_shape(layer._learned, variables)
            found.append((x.shape[1:], {name: learned[name].shape for name in layer._learnables}))
        return found


def layers(*layers: Any) -> LayerArray:
    """Constructs a sequential network.

    The layers are copied. An unnamed layer gets the default name of MATLAB's ``trainNetwork``:
    ``imageinput``, ``conv``, ``groupedconv``, ``batchnorm``, ``relu``, ``maxpool``, ``avgpool2d``,
    ``gapool``, ``dropout``, ``fc``, ``softmax`` or ``classoutput``. Several layers of one kind are
    numbered from 1, as in ``conv_1``.

    Args:
        *layers: the layers, or one sequence of them. The parentheses of a layer without arguments
            are optional, as in MATLAB.

    Raises:
        TypeError: an element is not a layer.
        ValueError: two layers have the same name.

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
    """Copies the layers and names the unnamed ones."""
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
