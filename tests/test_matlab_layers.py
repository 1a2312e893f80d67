"""Each layer under its MATLAB name: what it is at first and what it refuses."""

import re

import pytest
from matlab_layer import LEARNABLES, WINDOWS, random

from grouped_conv_jax import matlab
from grouped_conv_jax.matlab import (
    averagePooling2dLayer,
    batchNormalizationLayer,
    classificationLayer,
    convolution2dLayer,
    dropoutLayer,
    fullyConnectedLayer,
    imageInputLayer,
    maxPooling2dLayer,
)

DEFAULTS = {
    "convolution2dLayer": WINDOWS
    | LEARNABLES
    | {
        "FilterSize": (3, 3),
        "NumChannels": "auto",
        "NumFilters": 4,
        "DilationFactor": (1, 1),
        "PaddingValue": 0,
    },
    "batchNormalizationLayer": {
        "NumChannels": "auto",
        "TrainedMean": None,
        "TrainedVariance": None,
        "MeanDecay": 0.1,
        "VarianceDecay": 0.1,
        "Epsilon": 1e-5,
        "OffsetInitializer": "zeros",
        "ScaleInitializer": "ones",
        "Offset": None,
        "Scale": None,
        "OffsetLearnRateFactor": 1,
        "ScaleLearnRateFactor": 1,
        "OffsetL2Factor": 1,
        "ScaleL2Factor": 1,
    },
    "fullyConnectedLayer": LEARNABLES | {"InputSize": "auto", "OutputSize": 4},
    "maxPooling2dLayer": WINDOWS | {"PoolSize": (4, 4), "HasUnpoolingOutputs": 0},
    "averagePooling2dLayer": WINDOWS | {"PoolSize": (4, 4), "PaddingValue": 0},
    "imageInputLayer": {
        "InputSize": (5, 6, 3),
        "Normalization": "zerocenter",
        "NormalizationDimension": "auto",
        "Mean": None,
        "StandardDeviation": None,
        "Min": None,
        "Max": None,
    },
    "dropoutLayer": {"Probability": 0.5},
    "classificationLayer": {
        "Classes": "auto",
        "OutputSize": "auto",
        "LossFunction": "crossentropyex",
    },
    "reluLayer": {},
    "softmaxLayer": {},
    "globalAveragePooling2dLayer": {},
}
ARGUMENTS = {
    "convolution2dLayer": (3, 4),
    "fullyConnectedLayer": (4,),
    "maxPooling2dLayer": (4,),
    "averagePooling2dLayer": (4,),
    "imageInputLayer": ([5, 6, 3],),
}
each_layer = pytest.mark.parametrize("name", DEFAULTS)


def make(name, *pairs, **properties):
    return getattr(matlab, name)(*ARGUMENTS.get(name, ()), *pairs, **properties)


@each_layer
def test_defaults_are_those_of_matlab(name):
    assert {property: getattr(make(name), property) for property in DEFAULTS[name]} == DEFAULTS[
        name
    ]
    assert (make(name).Name, make(name).NumInputs, make(name).OutputNames) == ("", 1, ("out",))


@each_layer
def test_pairs_keywords_and_names_set_later_mean_the_same(name):
    later = make(name)
    later.name = "one"
    assert make(name, "Name", "one") == make(name, NAME="one") == later != make(name)


@each_layer
def test_every_property_but_those_that_follow_can_be_set(name):
    made = make(name)
    for property, value in DEFAULTS[name].items():
        try:
            setattr(made, property, value)
        except AttributeError as error:
            assert "is read-only" in str(error)  # noqa: PT017
    assert {property: getattr(made, property) for property in DEFAULTS[name]} == DEFAULTS[name]


@each_layer
def test_an_unknown_name_is_refused(name):
    with pytest.raises(TypeError, match="there is no property 'Nane'; did you mean 'Name'"):
        make(name, Nane="x")
    with pytest.raises(TypeError, match="properties must be pairs of a name and a value"):
        make(name, "Name")
    with pytest.raises(TypeError, match="NumInputs is read-only"):
        make(name, NumInputs=2)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_missing_argument_is_named(name):
    with pytest.raises(TypeError, match=rf"Layer needs {getattr(matlab, name)._positional[0]}"):
        getattr(matlab, name)()


RANDOM = random(3, 3, 1, 3)
BAD = [
    (lambda: convolution2dLayer(3, 0), "NumFilters must be a positive integer, got 0"),
    (
        lambda: convolution2dLayer(3, 2, Weights=RANDOM),
        "Weights must have shape (3, 3, any, 2, 1), got (3, 3, 1, 3, 1)",
    ),
    (lambda: maxPooling2dLayer(0), "PoolSize must be a positive integer, got 0"),
    (lambda: maxPooling2dLayer(2, Stride=[1, 2, 3]), "Stride must be a positive integer or a"),
    (
        lambda: maxPooling2dLayer([2, 3], Padding=[0, 0, 1, 3]),
        "Padding must be below PoolSize=(2, 3), got (0, 0, 1, 3)",
    ),
    (
        lambda: averagePooling2dLayer(2, PaddingValue=1),
        "PaddingValue must be one of 'mean' or 0",
    ),
    (lambda: fullyConnectedLayer(2.5), "OutputSize must be a positive integer, got 2.5"),
    (lambda: fullyConnectedLayer(2, Weights=RANDOM), "Weights must have size (2, inputs), got (3,"),
    (lambda: fullyConnectedLayer(2, Bias=random(3)), "Bias must have size (2, 1), got (3, 1)"),
    (lambda: fullyConnectedLayer(2, WeightsInitializer="hee"), "'hee'; did you mean 'he'?"),
    (
        lambda: fullyConnectedLayer(2, WeightL2Factor=-1),
        "WeightL2Factor must be a nonnegative finite number",
    ),
    (
        lambda: batchNormalizationLayer(Offset=random(4)),
        "Offset must have size (1, 1, channels)",
    ),
    (lambda: batchNormalizationLayer(Epsilon=0), "Epsilon must be a positive finite number"),
    (lambda: batchNormalizationLayer(MeanDecay=2), "MeanDecay must be a number from 0 to 1"),
    (lambda: dropoutLayer(1), "Probability must be a number of at least 0 and below 1, got 1"),
    (lambda: imageInputLayer([2, 3]), "InputSize must be (height, width, channels), got [2, 3]"),
    (lambda: imageInputLayer(28), "InputSize must be (height, width, channels), got 28"),
    (lambda: imageInputLayer([2, 0, 1]), "InputSize[1] must be a positive integer, got 0"),
    (
        lambda: imageInputLayer([2, 3, 1], Normalization="zero"),
        "'zscore', 'rescale-symmetric', 'rescale-zero-one' or a function, got 'zero'",
    ),
    (
        lambda: imageInputLayer([2, 3, 4], Mean=random(4)),
        "Mean must have size (2, 3, 4), (1, 1, 4) or (1, 1, 1), got (4, 1, 1)",
    ),
    (
        lambda: classificationLayer(Classes=[1, 1]),
        "Classes must be a 1-D array of different labels, got [1, 1]",
    ),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_a_bad_value_is_named(make, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        make()
