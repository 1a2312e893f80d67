"""Whole networks from MATLAB's files, which hold a struct array of layers."""

import re

import h5py
import numpy as np
import pytest
from mat_writers import SAVERS, save_6, write_73_header
from matlab_layer import random

from grouped_conv_jax.matlab import (
    assembleNetwork,
    batchNormalizationLayer,
    classificationLayer,
    classify,
    convolution2dLayer,
    fullyConnectedLayer,
    groupedConvolution2dLayer,
    imageInputLayer,
    layers,
    load_network,
    predict,
    reluLayer,
    softmaxLayer,
    trainingOptions,
    trainNetwork,
)

FIELDS = (
    *("Weights", "Bias", "Offset", "Scale", "TrainedMean", "TrainedVariance"),
    *("Mean", "StandardDeviation", "Min", "Max"),
)
IMAGES = random(16, 4, 5, 2)
LABELS = np.arange(16) % 3


def untrained():
    return layers(
        imageInputLayer([4, 5, 2], Normalization="zscore"),
        convolution2dLayer(3, 4, Padding="same"),
        batchNormalizationLayer,
        reluLayer,
        groupedConvolution2dLayer(2, 1, 4),
        fullyConnectedLayer(3),
        softmaxLayer,
        classificationLayer(Classes=[0, 1, 2]),
    )


@pytest.fixture(scope="module")
def trained():
    options = trainingOptions("adam", MaxEpochs=2, MiniBatchSize=8, Verbose=False)
    return trainNetwork(IMAGES, LABELS, untrained(), options)


def elements(network):
    """What MATLAB's five statements write of each layer; arrays that it lacks are empty."""
    return [
        {"Name": layer.Name} | {field: squeezed(layer._values.get(field)) for field in FIELDS}
        for layer in network.Layers
    ]


def squeezed(array):
    """MATLAB drops trailing ones down to two axes."""
    if array is None:
        return np.zeros((0, 0), np.float32)
    shape = list(array.shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape.pop()
    return np.asarray(array).reshape(shape)


def save(version, path, rows):
    if version == "7.3":
        save_73(path, rows)
        return
    array = np.zeros((len(rows), 1), [(name, "O") for name in rows[0]])
    for i, row in enumerate(rows):
        array[i, 0] = tuple(row.values())
    SAVERS[version](path, layers=array)


def save_73(path, rows):
    with h5py.File(path, "w", userblock_size=512) as file:
        group, held = file.create_group("layers"), file.create_group("#refs#")
        group.attrs["MATLAB_class"] = np.bytes_("struct")
        for name in rows[0]:
            references = np.zeros((1, len(rows)), h5py.ref_dtype)
            for i, row in enumerate(rows):
                references[0, i] = value_73(held, f"{name}{i}", row[name]).ref
            group.create_dataset(name, data=references, dtype=h5py.ref_dtype)
    write_73_header(path)


def value_73(held, name, value):
    if isinstance(value, str):
        letters = np.array([[ord(letter)] for letter in value], np.uint16)
        dataset, matlab_class = held.create_dataset(name, data=letters), "char"
    elif value.size:
        dataset, matlab_class = held.create_dataset(name, data=value.T), "single"
    else:
        dataset, matlab_class = held.create_dataset(name, data=np.zeros(2, np.uint64)), "single"
        dataset.attrs["MATLAB_empty"] = np.uint8(1)
    dataset.attrs["MATLAB_class"] = np.bytes_(matlab_class)
    return dataset


@pytest.mark.parametrize("version", SAVERS)
def test_a_network_computes_what_it_computed_where_it_was_trained(version, trained, tmp_path):
    path = tmp_path / "network.mat"
    save(version, path, elements(trained))
    network = load_network(path, untrained())
    for layer, original in zip(network, trained.Layers, strict=True):
        for field in FIELDS:
            np.testing.assert_array_equal(layer._values.get(field), original._values.get(field))
    assembled = assembleNetwork(network)
    np.testing.assert_allclose(predict(assembled, IMAGES), predict(trained, IMAGES), rtol=1e-6)
    np.testing.assert_array_equal(classify(assembled, IMAGES), classify(trained, IMAGES))


def changed(rows, index, **fields):
    return [row | fields if i == index else row for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows[:1] + rows[2:],
            "must hold the network's layers, got 'conv' missing and none that the network lacks",
        ),
        (
            lambda rows: changed(rows, 3, Name="tanh"),
            "must hold the network's layers, got none missing and 'tanh' that the network lacks",
        ),
        (
            lambda rows: changed(rows, 1, Weights=random(3, 3, 2, 5)),
            "must have size (3, 3, 2, 4), got (3, 3, 2, 5)",
        ),
        (
            lambda rows: changed(rows, 2, TrainedMean=random(1, 1, 5)),
            "must have size (1, 1, 4), got (1, 1, 5)",
        ),
        (
            lambda rows: changed(rows, 0, Mean=random(2, 5, 4)),
            "must have size (4, 5, 2) or (1, 1, 2) or (1, 1, 1), got (2, 5, 4)",
        ),
        (
            lambda rows: changed(rows, 5, Bias=np.zeros((0, 0))),
            "Bias of layer 'fc' in path=",
        ),
        (
            lambda rows: changed(rows, 5, Bias="none"),
            "must be a full array of real numbers, got MATLAB class char",
        ),
        (
            lambda rows: [{k: v for k, v in row.items() if k != "Name"} for row in rows],
            "lacks 'Name'; it holds 'Bias', 'Max', 'Mean'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change, message, trained, tmp_path):
    save("6", tmp_path / "network.mat", change(elements(trained)))
    with pytest.raises(ValueError, match=re.escape(message)):
        load_network(tmp_path / "network.mat", untrained())


def test_another_variable_than_a_struct_is_refused(tmp_path):
    save_6(tmp_path / "network.mat", layers=np.ones((2, 2)))
    with pytest.raises(ValueError, match="must be a struct array, got MATLAB class double"):
        load_network(tmp_path / "network.mat", untrained())
    with pytest.raises(ValueError, match="lacks 'net'; it holds 'layers'"):
        load_network(tmp_path / "network.mat", untrained(), name="net")


def test_an_incomplete_network_is_not_assembled(trained):
    with pytest.raises(ValueError, match="Mean of layer 'imageinput' must be set, got none"):
        assembleNetwork(untrained())
    complete = trained.Layers[:-1]
    with pytest.raises(ValueError, match=r"has Classes, got crossentropyex"):
        assembleNetwork([*complete, classificationLayer])
    with pytest.raises(ValueError, match=r"has Classes, got softmax"):
        assembleNetwork(complete)
