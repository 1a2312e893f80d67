"""What `trainNetwork` and `trainingOptions` refuse, and options as they are at first."""

import re

import numpy as np
import pytest
from matlab_training import IMAGES, LABELS, QUIET, linear

from grouped_conv_jax.matlab import (
    classificationLayer,
    layers,
    predict,
    trainingOptions,
    trainNetwork,
)

UNLABELLED = trainingOptions("sgdm", ValidationData=(IMAGES, LABELS[:1]), **QUIET)
OTHER_CLASSES = [*linear()[:3], classificationLayer(Classes=["a", "b", "d"])]
BAD_KINDS = [
    ({"images": IMAGES.tolist()}, "images must be an array, got list"),
    ({"images": IMAGES > 0}, "images must be real numbers, got bool"),
    ({"options": {}}, "options must be from trainingOptions, got dict"),
]
BAD_VALUES = [
    ({"images": IMAGES[..., 0]}, "images must have four axes"),
    ({"images": IMAGES.swapaxes(1, 2)}, "images must be of InputSize=(2, 3, 1), got (3, 2, 1)"),
    ({"labels": LABELS[:5]}, "labels must be a 1-D array with a label for each of 20 images, got"),
    (
        {"labels": np.arange(20)},
        "layers must have an output for each of 20 classes, got outputs of size (3,)",
    ),
    (
        {"layers": linear()[:2]},
        "layers must end with softmaxLayer and classificationLayer, got Image Input, Fully",
    ),
    ({"layers": linear()[1:]}, "layers must begin with imageInputLayer, got Fully Connected"),
    (
        {"layers": OTHER_CLASSES},
        "labels must be among the network's classes ['a', 'b', 'd'], got ['c']",
    ),
    (
        {"options": trainingOptions("sgdm")},
        "MiniBatchSize must be at most the number of images, 20, got 128",
    ),
    ({"options": UNLABELLED}, "ValidationData[1] must be a 1-D array with a label for each of 20"),
    ({"data_format": "BSC"}, "data_format must hold 'B' and 'C' once"),
]


@pytest.mark.parametrize(
    ("changes", "message", "error"),
    [(*case, ValueError) for case in BAD_VALUES] + [(*case, TypeError) for case in BAD_KINDS],
)
def test_what_cannot_be_trained_is_refused(changes, message, error):
    arguments = {
        "images": IMAGES,
        "labels": LABELS,
        "layers": linear(),
        "options": trainingOptions("sgdm", **QUIET),
    }
    with pytest.raises(error, match=re.escape(message)):
        trainNetwork(**arguments | changes)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("lbfgs",), {}, ValueError, "solverName must be one of 'sgdm', 'adam', 'rmsprop', got"),
        (("adam",), {"Momentum": 0.5}, TypeError, "there is no property 'Momentum'"),
        (("sgdm",), {"MaxEpoch": 5}, TypeError, "did you mean 'MaxEpochs'?"),
        (("sgdm", "MaxEpochs"), {}, TypeError, "properties must be pairs"),
        (("sgdm",), {"MaxEpochs": 0}, ValueError, "MaxEpochs must be a positive integer, got 0"),
        (
            ("sgdm",),
            {"Momentum": 1.5},
            ValueError,
            "Momentum must be a number from 0 to 1, got 1.5",
        ),
        (
            ("sgdm",),
            {"Shuffle": "twice"},
            ValueError,
            "Shuffle must be one of 'once', 'every-epoch'",
        ),
        (("sgdm",), {"Verbose": 2}, ValueError, "Verbose must be True or False, got 2"),
        (("sgdm",), {"Verbose": "yes"}, TypeError, "Verbose must be True or False, got 'yes'"),
        (("sgdm",), {"GradientThreshold": 0}, ValueError, "GradientThreshold must be a positive"),
        (("sgdm",), {"ValidationData": 3}, ValueError, "ValidationData must be (images, labels)"),
    ],
)
def test_wrong_options_are_refused(arguments, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        trainingOptions(*arguments, **options)


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        ("sgdm", {"InitialLearnRate": 0.01, "Momentum": 0.9}),
        (
            "adam",
            {
                "InitialLearnRate": 0.001,
                "GradientDecayFactor": 0.9,
                "SquaredGradientDecayFactor": 0.999,
                "Epsilon": 1e-8,
            },
        ),
        (
            "RMSprop",
            {"InitialLearnRate": 0.001, "SquaredGradientDecayFactor": 0.9, "Epsilon": 1e-8},
        ),
    ],
)
def test_options_are_at_first_what_they_are_in_matlab(solver, expected):
    options = trainingOptions(solver)
    assert {name: getattr(options, name) for name in expected} == expected
    assert (options.MaxEpochs, options.MiniBatchSize, options.Shuffle) == (30, 128, "once")


def test_only_a_trained_network_predicts():
    with pytest.raises(TypeError, match="network must be a trained network, got LayerArray"):
        predict(layers(linear()), IMAGES)


def test_options_show_their_validation_data_by_its_size():
    options = trainingOptions("sgdm", ValidationData=(IMAGES, LABELS.tolist()))
    assert "ValidationData: [[20x2x3 single] [20x1 categorical]]" in str(options)
