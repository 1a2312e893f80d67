"""The layer under its MATLAB names: what it refuses, named as in MATLAB."""

import re
import types

import numpy as np
import pytest
from flax import nnx
from matlab_layer import DEFAULTS, layer, random

from grouped_conv_jax.matlab import groupedConvolution2dLayer

BAD_VALUES = [
    ({"filterSize": [3, -1]}, "FilterSize[1] must be a positive integer, got -1"),
    (
        {"numGroups": "chanel-wise"},
        "NumGroups must be one of 'channel-wise' or a positive integer, got 'chanel-wise'; "
        "did you mean 'channel-wise'?",
    ),
    ({"Stride": [2, 0]}, "Stride[1] must be a positive integer, got 0"),
    ({"DilationFactor": 0}, "DilationFactor must be a positive integer, got 0"),
    (
        {"Padding": [1, 2, 3]},
        "Padding must be 'same', 'valid', a ... got [1, 2, 3]",
    ),
    ({"Padding": "stride"}, "Padding must be one of 'same', 'valid' or ... got 'stride'"),
    (
        {"PaddingValue": "mirror"},
        "PaddingValue must be one of 'symmetric-... got 'mirror'",
    ),
    ({"NumChannelsPerGroup": "all"}, "NumChannelsPerGroup must be one of 'auto' or ... got 'all'"),
    (
        {"numGroups": "channel-wise", "NumChannelsPerGroup": 2},
        'NumChannelsPerGroup must be "auto" or 1 where NumGroups is "channel-wise", got 2',
    ),
    (
        {"WeightsInitializer": "gloro"},
        "WeightsInitializer must be one of 'glorot', 'he', 'zeros', 'ones', 'narrow-normal' or "
        "a function of the size, got 'gloro'; did you mean 'glorot'?",
    ),
    ({"BiasInitializer": "he"}, "BiasInitializer must be one of 'zeros', 'ones', ... got 'he'"),
    (
        {"Weights": random(3, 3, 5, 3, 2)},
        "Weights must have shape (3, 3, any, 4, 2), got (3, 3, 5, 3, 2)",
    ),
    ({"Bias": random(4, 2)}, "Bias must have shape (1, 1, 4, 2), got (4, 2, 1, 1)"),
    ({"WeightLearnRateFactor": -1}, "WeightLearnRateFactor must be a nonnegative finite number"),
]
BAD_KINDS = [
    ({"filterSize": 3.5}, "FilterSize must be a positive integer, got 3.5"),
    ({"Stride": "2"}, "Stride must be a positive integer, got '2'"),
    ({"PaddingValue": None}, "PaddingValue must be a finite number, got None"),
    ({"Name": 5}, "Name must be a string, got 5"),
    ({"WeightsInitializer": 1}, "WeightsInitializer must be one of 'glorot', ... got 1"),
    ({"Weights": [[1.0]]}, "Weights must be an array of real numbers, got list of object"),
    (
        {"Weights": types.SimpleNamespace(dtype="torch.float32")},
        "Weights must be an array of real numbers, got SimpleNamespace of torch.float32",
    ),
]
MATLAB_NAMES = {
    "filterSize": "FilterSize",
    "numFiltersPerGroup": "NumFiltersPerGroup",
    "numGroups": "NumGroups",
}


def pattern(message):
    """A regular expression for a message, three dots standing for what is left out."""
    return re.escape(message).replace(re.escape("..."), ".*")


@pytest.mark.parametrize(
    ("bad", "message", "error"),
    [(*case, ValueError) for case in BAD_VALUES] + [(*case, TypeError) for case in BAD_KINDS],
)
def test_a_bad_argument_is_named_as_in_matlab(bad, message, error):
    good = {"filterSize": 3, "numFiltersPerGroup": 4, "numGroups": 2}
    with pytest.raises(error, match=pattern(message)):
        groupedConvolution2dLayer(**good | bad)


@pytest.mark.parametrize(
    ("bad", "message", "error"),
    [
        (*case, error)
        for cases, error in ((BAD_VALUES, ValueError), (BAD_KINDS, TypeError))
        for case in cases
        if len(case[0]) == 1 and "Padding" not in case[0]
    ],
)
def test_setting_a_bad_value_raises_the_same_and_changes_nothing(bad, message, error):
    made = layer()
    ((name, value),) = bad.items()
    with pytest.raises(error, match=pattern(message)):
        setattr(made, MATLAB_NAMES.get(name, name), value)
    assert {name: getattr(made, name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    ("pairs", "properties", "message"),
    [
        ((), {"Strid": 2}, "there is no property 'Strid'; did you mean 'Stride'?"),
        (("Initializer", "he"), {}, "there is no property 'Initializer'; did you mean 'Bias"),
        ((), {"Colour": 1}, "there is no property 'Colour'"),
        (("Stride", 2, "STRIDE", 3), {}, "Stride must be given once, got STRIDE=3 too"),
        ((), {"FilterSize": 5}, "FilterSize must be given once, got FilterSize=5 too"),
        (("Stride",), {}, "properties must be pairs of a name and a value, got ('Stride',)"),
        ((2, "Stride"), {}, "a property's name must be a string, got 2"),
        ((), {"NumInputs": 2}, "NumInputs is read-only, got NumInputs=2"),
        ((), {"outputNames": "b"}, "OutputNames is read-only, got outputNames='b'"),
        ((), {"PaddingMode": "same"}, "PaddingMode follows from Padding, got PaddingMode='same'"),
        ((), {"PaddingSize": 1}, "PaddingSize follows from Padding, got PaddingSize=1"),
    ],
)
def test_a_wrong_name_is_refused(pairs, properties, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        layer(*pairs, **properties)


@pytest.mark.parametrize(
    "name", ["NumInputs", "InputNames", "NumOutputs", "OutputNames", "PaddingMode"]
)
def test_read_only_properties_cannot_be_set(name):
    made = layer()
    with pytest.raises(AttributeError, match=f"{name} is read-only, got {name}=7"):
        setattr(made, name, 7)
    assert getattr(made, name) == DEFAULTS[name]


@pytest.mark.parametrize("name", ["WeightLearnRateFacter", "Paddin", "weights_initializer"])
def test_an_unknown_property_can_neither_be_read_nor_set(name):
    made = layer()
    with pytest.raises(AttributeError, match=f"there is no property '{name}'; did you mean"):
        getattr(made, name)
    with pytest.raises(AttributeError, match=f"there is no property '{name}'; did you mean"):
        setattr(made, name, 2)


@pytest.mark.parametrize("size", [1, [1, 2], "same"])
def test_the_size_of_the_padding_has_four_numbers(size):
    made = layer()
    message = f"PaddingSize must be (top, bottom, left, right), got {size!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        made.PaddingSize = size


def test_the_modules_check_the_channels():
    with pytest.raises(ValueError, match=r"num_groups=2 must divide .* got num_channels=5"):
        layer().to_nnx(5, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (
            lambda sz: np.ones(sz[::-1]),
            ValueError,
            r"WeightsInitializer\(sz\) must have size \(3, 3, 3, 4, 2\).*got \(2, 4, 3, 3, 3\)",
        ),
        (
            lambda sz: 0.5,  # noqa: ARG005
            TypeError,
            r"WeightsInitializer\(sz\) must return a real array, got 0.5",
        ),
        (
            lambda sz: np.ones(sz) * 1j,
            TypeError,
            r"WeightsInitializer\(sz\) must return a real array, got array",
        ),
    ],
)
def test_what_a_function_returns_is_checked(function, error, message):
    with pytest.raises(error, match=message):
        layer(WeightsInitializer=function).to_nnx(6, rngs=nnx.Rngs(0))
