"""Weights of whole networks from MATLAB's files."""

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
    """Reads the weights of a whole network from a MATLAB file of version 5, 6, 7 or 7.3.

    The file holds a struct array with an element for each layer: its ``Name``, and whichever it has
    of ``Weights``, ``Bias``, ``Offset``, ``Scale``, ``TrainedMean``, ``TrainedVariance``, ``Mean``,
    ``StandardDeviation``, ``Min`` and ``Max``; empty arrays count as absent. MATLAB writes it by::

        layers = struct('Name', {net.Layers.Name});
        for p = {'Weights','Bias','Offset','Scale','TrainedMean','TrainedVariance', ...
                 'Mean','StandardDeviation','Min','Max'}
            for i = find(arrayfun(@(l) isprop(l, p{1}), net.Layers))'
                layers(i).(p{1}) = net.Layers(i).(p{1}); end, end
        save('network.mat', 'layers')

    Args:
        path: the file.
        network: what `layers` returns, or a list of layers, with the names in the file.
        name: of the struct array in the file.

    Returns:
        The network with these weights, for `assembleNetwork`, `trainNetwork`, ``to_linen`` or
        ``to_nnx``.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the file is of version 7.3 and h5py is not installed.
        TypeError: ``path`` is no path, or ``network`` no network.
        ValueError: the file is none of MATLAB's, is truncated or damaged, or does not fit: a layer
            is missing on one side, lacks learnables, or has them in other sizes.

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
    array = LayerArray(network) if isinstance(network, LayerArray) else layers(network)
    expected = {
        layer.Name: learnables
        for layer, (_, learnables) in zip(array, array._activations(), strict=True)
    }
    with _mat_files.opened(path) as variables:
        found = _elements(path, variables, name)
        _check_names(path, expected, found)
        for layer in array:
            _read(path, layer, expected[layer.Name], found.get(layer.Name, {}))
    return array


def assembleNetwork(network: Any) -> TrainedNetwork:  # noqa: N802
    """Makes a network for `predict` and `classify` of layers that have all their weights.

    Args:
        network: what `load_network` or `layers` returns, or a list of layers. It ends with a
            classification output that knows its ``Classes``.

    Raises:
        TypeError: ``network`` is no network.
        ValueError: learnables, statistics or classes are missing.

    Example:
        >>> import numpy as np
        >>> from grouped_conv_jax.matlab import *
        >>> trained = assembleNetwork([
        ...     imageInputLayer([1, 2, 1], Normalization="none"),
        ...     fullyConnectedLayer(2, Weights=np.eye(2), Bias=np.zeros((2, 1))),
        ...     softmaxLayer,
        ...     classificationLayer(Classes=["left", "right"]),
        ... ])
        >>> classify(trained, np.array([0.0, 5.0], np.float32).reshape(1, 1, 2, 1)).tolist()
        ['right']
    """
    array = LayerArray(network) if isinstance(network, LayerArray) else layers(network)
    for layer in array:
        for name in layer._wanted():
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
    """The fields of each layer in the file by its name."""
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
    """Sets what a layer has in the file."""
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
