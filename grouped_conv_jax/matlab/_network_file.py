"""Loads the weights of whole networks from MATLAB files."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grouped_conv_jax.convert import _mat_5, _mat_files
from grouped_conv_jax.matlab._layer import Layer, Size
from grouped_conv_jax.matlab._layer_array import LayerArray, layers
from grouped_conv_jax.matlab._simple_layers import ClassificationOutputLayer
from grouped_conv_jax.matlab._trained_network import TrainedNetwork


def load_network(path: str | os.PathLike[str], network: Any, *, name: str = "layers") -> LayerArray:
    """Loads the weights of a whole network from a MATLAB file of version 5, 6, 7 or 7.3.

    The file holds a struct array with one element per layer. An element has the layer's ``Name``
    and those of ``Weights``, ``Bias``, ``Offset``, ``Scale``, ``TrainedMean``, ``TrainedVariance``,
    ``Mean``, ``StandardDeviation``, ``Min`` and ``Max`` that the layer has. An empty array counts
    as absent. This MATLAB code writes such a file::

        layers = struct('Name', {net.Layers.Name});
        for p = {'Weights','Bias','Offset','Scale','TrainedMean','TrainedVariance', ...
                 'Mean','StandardDeviation','Min','Max'}
            for i = find(arrayfun(@(l) isprop(l, p{1}), net.Layers))'
                layers(i).(p{1}) = net.Layers(i).(p{1}); end, end
        save('network.mat', 'layers')

    Args:
        path: path of the file.
        network: a layer array or a list of layers, with the names that the file uses.
        name: name of the struct array in the file.

    Returns:
        The network with these weights, for `assembleNetwork`, `trainNetwork`, ``to_linen`` or
        ``to_nnx``.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: the file has version 7.3 and h5py is not installed.
        TypeError: ``path`` is not a path, or ``network`` is not a network.
        ValueError: the file is not a MATLAB file, is truncated or damaged, or does not match the
            network: a layer is missing on one side, or its learnables are missing or have other
            sizes.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np, scipy.io
        >>> from grouped_conv_jax.matlab import *
        >>> saved = {"Name": "fc", "Weights": np.ones((3, 8)), "Bias": np.zeros((3, 1))}
        >>> network = layers(imageInputLayer([2, 2, 2]), fullyConnectedLayer(3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "network.mat")
        ...     scipy.io.savemat(path, {"layers": saved})
        ...     network = load_network(path, network)
        >>> network[1].Weights.shape
        (3, 8)
    """
    array = layers(network)
    expected = {
        layer.Name: learnables
        for layer, (_, learnables) in zip(array, array._infer_sizes(), strict=True)
    }
    with _mat_files.opened(path) as variables:
        found = _elements(path, variables, name)
        _check_names(path, expected, found)
        for layer in array:
            _read(path, layer, expected[layer.Name], found.get(layer.Name, {}))
    return array


def assembleNetwork(network: Any) -> TrainedNetwork:  # noqa: N802
    """Makes a trained network, for `predict` and `classify`, from layers with weights.

    Args:
        network: a layer array, such as `load_network` returns, or a list of layers. The last layer
            must be a classification output with ``Classes``.

    Raises:
        TypeError: ``network`` is not a network.
        ValueError: learnables, statistics or classes are missing.

    Example:
        >>> import numpy as np
        >>> from grouped_conv_jax.matlab import *
        >>> output = classificationLayer(Classes=["no", "yes"])
        >>> image_input, dense = imageInputLayer([2, 2, 2]), fullyConnectedLayer(2)
        >>> network = layers(image_input, dense, softmaxLayer, output)
        >>> network[0].Mean = np.zeros((1, 1, 2))
        >>> network[1].Weights, network[1].Bias = np.ones((2, 8)), np.array([[0.0], [1.0]])
        >>> classify(assembleNetwork(network), np.ones((1, 2, 2, 2), np.float32)).tolist()
        ['yes']
    """
    array = layers(network)
    for layer in array:
        for name in layer._required():
            if getattr(layer, name) is None:
                raise ValueError(f"{name} of layer {layer.Name!r} must be set, got none")
    output = array[-1] if len(array) else None
    if not isinstance(output, ClassificationOutputLayer) or isinstance(output.Classes, str):
        raise ValueError(
            "the network must end with a classificationLayer that has Classes, "
            f"got {'no layers' if output is None else output._describe()}"
        )
    image = jnp.zeros((1, *array._input_size("assembleNetwork")), jnp.float32)
    return TrainedNetwork(array, array.to_linen().init(jax.random.key(0), image), {})


def _elements(
    path: str | os.PathLike[str], variables: Mapping[str, _mat_files.Variable], name: str
) -> dict[str, Mapping[str, _mat_files.Variable]]:
    """Returns the fields of each layer in the file, by the layer's name."""
    where = f"{name!r} in path={os.fspath(path)!r}"
    _mat_files.check_name(f"path={os.fspath(path)!r}", name, variables)
    if variables[name].matlab_class != "struct":
        raise ValueError(
            f"{where} must be a struct array, got MATLAB class {variables[name].matlab_class}"
        )
    with _mat_files.reading(path):
        elements = variables[name].elements()
    found: dict[str, Mapping[str, _mat_files.Variable]] = {}
    for element in elements:
        _mat_files.check_name(where, "Name", element)
        with _mat_files.reading(path):
            found[element["Name"].text()] = element
    return found


def _check_names(
    path: str | os.PathLike[str], expected: Mapping[str, Any], found: Mapping[str, Any]
) -> None:
    missing = [layer for layer, learnables in expected.items() if learnables and layer not in found]
    extra = [layer for layer in found if layer not in expected]
    if missing or extra:
        raise ValueError(
            f"path={os.fspath(path)!r} must hold the network's layers, got "
            f"{', '.join(map(repr, missing)) or 'none'} missing and "
            f"{', '.join(map(repr, extra)) or 'none'} that the network lacks"
        )


def _read(
    path: str | os.PathLike[str],
    layer: Layer,
    learnables: Mapping[str, Size],
    fields: Mapping[str, _mat_files.Variable],
) -> None:
    """Sets the properties of a layer that the file holds."""
    sizes = layer._stored_sizes(learnables)
    values: dict[str, Any] = {}
    for property, allowed in sizes.items():
        variable = fields.get(property)
        where = f"{property} of layer {layer.Name!r} in path={os.fspath(path)!r}"
        if variable is None or 0 in variable.size:
            if property in learnables:
                raise ValueError(f"{where} must hold numbers, got none")
            continue
        if variable.matlab_class not in _mat_5.DTYPES:
            raise ValueError(
                f"{where} must be a full array of real numbers, "
                f"got MATLAB class {variable.matlab_class}"
            )
        fitting = [size for size in allowed if _mat_files.has_size(variable.size, size)]
        if not fitting:
            raise ValueError(
                f"{where} must have size {' or '.join(map(str, allowed))}, got {variable.size}"
            )
        with _mat_files.reading(path):
            values[property] = np.asarray(variable.values()).reshape(fitting[0])
    layer._set(values)
