"""The layer under its MATLAB names: what it takes, shows, and becomes."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matlab_layer import DEFAULTS, layer, random

import grouped_conv_jax
from grouped_conv_jax.matlab import groupedConvolution2dLayer

# What it takes.


def test_defaults_are_those_of_matlab():
    assert {name: getattr(layer(), name) for name in DEFAULTS} == DEFAULTS


def test_every_property_is_listed_for_completion():
    assert set(DEFAULTS) <= set(dir(layer()))


def test_pairs_and_keywords_mean_the_same():
    pairs = layer("Padding", "same", "Stride", [2, 1], "Name", "g")
    keywords = layer(Padding="same", Stride=[2, 1], Name="g")
    mixed = layer("Padding", "same", Stride=[2, 1], Name="g")
    assert repr(pairs) == repr(keywords) == repr(mixed)
    assert (pairs.PaddingMode, pairs.Stride, pairs.Name) == ("same", (2, 1), "g")


@pytest.mark.parametrize("spell", [str.upper, str.lower, str.title])
def test_case_does_not_matter_in_names_and_words(spell):
    words = {
        "PaddingValue": "symmetric-exclude-edge",
        "WeightsInitializer": "narrow-normal",
        "BiasInitializer": "ones",
        "NumChannelsPerGroup": "auto",
    }
    properties = words | {"Padding": "same", "Stride": 2, "WeightL2Factor": 3}
    spelled = {
        spell(name): spell(value) if isinstance(value, str) else value
        for name, value in properties.items()
    }
    made = groupedConvolution2dLayer(3, 1, spell("channel-wise"), **spelled)
    assert {name: getattr(made, name) for name in words} == words
    assert (made.NumGroups, made.PaddingMode, made.Stride) == ("channel-wise", "same", (2, 2))
    assert getattr(made, spell("WeightL2Factor")) == 3


@pytest.mark.parametrize(
    ("padding", "mode", "size"),
    [
        (2, "manual", (2, 2, 2, 2)),
        ([1, 2], "manual", (1, 1, 2, 2)),
        ([1, 2, 3, 4], "manual", (1, 2, 3, 4)),
        (np.array([1, 2, 3, 4]), "manual", (1, 2, 3, 4)),
        ("same", "same", (0, 0, 0, 0)),
    ],
)
def test_padding_decides_mode_and_size(padding, mode, size):
    made = layer(Padding=padding)
    assert (made.PaddingMode, made.PaddingSize) == (mode, size)


def test_properties_can_be_set_later():
    made = layer(Padding="same")
    later = {
        "Name": "later",
        "FilterSize": (5, 2),
        "NumGroups": 3,
        "NumChannelsPerGroup": 2,
        "NumFiltersPerGroup": 7,
        "Stride": (2, 1),
        "DilationFactor": (1, 2),
        "PaddingSize": (1, 2, 3, 4),
        "PaddingValue": "replicate",
        "WeightsInitializer": "he",
        "BiasInitializer": "ones",
        "WeightLearnRateFactor": 2,
        "BiasLearnRateFactor": 0,
        "WeightL2Factor": 0.5,
        "BiasL2Factor": 1,
    }
    for name, value in later.items():
        setattr(made, name, list(value) if isinstance(value, tuple) else value)
    assert {name: getattr(made, name) for name in later} == later
    assert made.PaddingMode == "manual"


def test_padding_can_be_set_later_as_at_first():
    made = layer()
    made.Padding = "same"
    assert (made.PaddingMode, made.PaddingSize, made.Padding) == ("same", (0, 0, 0, 0), "same")
    made.padding = [1, 2]
    assert (made.PaddingMode, made.PaddingSize) == ("manual", (1, 1, 2, 2))


@pytest.mark.parametrize("double", [float, np.float64, np.float32, jnp.float32])
def test_doubles_are_integers_as_in_matlab(double):
    made = groupedConvolution2dLayer(
        double(3),
        double(4),
        double(2),
        Stride=[double(2), 1],
        DilationFactor=np.array([1.0, 2.0]),
        Padding=[double(1), double(2), double(3), double(4)],
        NumChannelsPerGroup=double(5),
    )
    values = (made.FilterSize, made.NumFiltersPerGroup, made.NumGroups, made.Stride)
    assert values == ((3, 3), 4, 2, (2, 1))
    assert (made.DilationFactor, made.PaddingSize) == ((1, 2), (1, 2, 3, 4))
    assert made.NumChannelsPerGroup == 5
    made.Stride = double(3)
    assert made.Stride == (3, 3)
    assert all(type(number) is int for number in (*made.FilterSize, *made.PaddingSize))


@pytest.mark.parametrize("data_format", ["BCSS", "SSCB"])
def test_both_modules_take_a_data_format(data_format):
    made = layer()
    modules = made.to_linen(data_format), made.to_nnx(6, rngs=nnx.Rngs(0), data_format=data_format)
    assert [module.data_format for module in modules] == [data_format] * 2


def test_a_copy_is_independent():
    made = layer()
    copied = copy.deepcopy(made)
    copied.Stride = 2
    assert (made.Stride, copied.Stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize("as_array", [np.asarray, jnp.asarray])
def test_arrays_may_lack_trailing_ones(as_array):
    weights, bias = random(3, 3, 2), random(1, 1)
    made = groupedConvolution2dLayer(3, 1, 1, Weights=as_array(weights), Bias=as_array(bias))
    np.testing.assert_array_equal(made.Weights, weights[..., np.newaxis, np.newaxis])
    np.testing.assert_array_equal(made.Bias, bias[..., np.newaxis, np.newaxis])
    for learnables in (
        made.to_linen().init(jax.random.key(0), jnp.ones((4, 4, 2)))["params"],
        vars(made.to_nnx(2, rngs=nnx.Rngs(0))),
    ):
        np.testing.assert_array_equal(learnables["weights"][:, :, :, 0, 0], weights)
        np.testing.assert_array_equal(learnables["bias"][:, :, 0, 0], bias)


@pytest.mark.parametrize("empty", [[], np.zeros((0, 0)), None])
def test_an_empty_array_is_none_at_all(empty):
    made = layer(Weights=random(3, 3, 5, 4, 2), Bias=random(1, 1, 4, 2))
    made.Weights = empty
    made.Bias = empty
    assert (made.Weights, made.Bias) == (None, None)


def test_arrays_are_shown_by_size_and_class():
    made = groupedConvolution2dLayer(
        11, 10, 3, Weights=random(11, 11, 1, 10, 3), Bias=random(1, 1, 10, 3).astype(np.float64)
    )
    lines = str(made).splitlines()
    assert lines[-2:] == [
        "                Weights: [11x11x1x10x3 single]",
        "                   Bias: [1x1x10x3 double]",
    ]
    one_group = groupedConvolution2dLayer(3, 4, 1, Weights=random(3, 3, 2, 4), Bias=random(1, 1, 4))
    assert str(one_group).splitlines()[-2:] == [
        "                Weights: [3x3x2x4 single]",
        "                   Bias: [1x1x4 single]",
    ]


def test_other_values_are_shown_as_matlab_shows_them():
    made = layer(PaddingValue="replicate", Padding=[1, 2, 3, 4], NumChannelsPerGroup=2)
    lines = [line.strip() for line in str(made).splitlines()]
    for line in (
        "Name: ''",
        "PaddingSize: [1 2 3 4]",
        "PaddingValue: 'replicate'",
        "NumChannelsPerGroup: 2",
    ):
        assert line in lines
    made.PaddingValue = 0.5
    assert "PaddingValue: 0.5" in str(made)
    assert all(line == line.rstrip() for line in str(made).split("\n"))


# What it becomes.


def test_both_modules_get_every_property():
    made = layer(
        Name="g",
        Stride=[2, 1],
        DilationFactor=[1, 2],
        Padding=[1, 2, 3, 4],
        PaddingValue="replicate",
        WeightsInitializer="he",
        BiasInitializer="narrow-normal",
        WeightLearnRateFactor=2,
        BiasLearnRateFactor=3,
        WeightL2Factor=4,
        BiasL2Factor=5,
    )
    expected = {
        "filter_size": (3, 3),
        "num_filters_per_group": 4,
        "num_groups": 2,
        "stride": (2, 1),
        "dilation_factor": (1, 2),
        "padding_size": (1, 2, 3, 4),
        "padding_value": "replicate",
        "use_bias": True,
        "weights_initializer": "he",
        "bias_initializer": "narrow-normal",
        "weight_learn_rate_factor": 2,
        "bias_learn_rate_factor": 3,
        "weight_l2_factor": 4,
        "bias_l2_factor": 5,
    }
    linen_module, nnx_module = made.to_linen(), made.to_nnx(6, rngs=nnx.Rngs(0))
    assert type(linen_module) is grouped_conv_jax.linen.GroupedConv2D
    assert type(nnx_module) is grouped_conv_jax.nnx.GroupedConv2D
    for module in (linen_module, nnx_module):
        assert {name: getattr(module, name) for name in expected} == expected
    assert linen_module.name == "g"
    assert nnx_module.num_channels == 6


def test_no_name_leaves_the_name_to_linen():
    assert layer().to_linen().name is None


@pytest.mark.parametrize("transform", [lambda function: function, jax.jit], ids=["plain", "jit"])
def test_initializers_of_matlabs_form_get_the_size(transform):
    sizes = []

    def count(sz):
        sizes.append(sz)
        return np.arange(np.prod(sz), dtype=np.float64).reshape(sz)

    made = layer(WeightsInitializer=count, BiasInitializer=count)
    assert made.WeightsInitializer is made.BiasInitializer is count
    x = jnp.ones((4, 4, 6))
    params = transform(made.to_linen().init)(jax.random.key(0), x)["params"]
    assert sizes == [(3, 3, 3, 4, 2), (1, 1, 4, 2)]
    assert params["weights"].dtype == params["bias"].dtype == jnp.float32
    np.testing.assert_array_equal(params["weights"].ravel(), np.arange(3 * 3 * 3 * 4 * 2))
    np.testing.assert_array_equal(params["bias"].ravel(), np.arange(8))
    module = made.to_nnx(6, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(module.weights[...], params["weights"])
    np.testing.assert_array_equal(module.bias[...], params["bias"])


def test_a_function_may_drop_trailing_ones_as_matlabs_do():
    made = groupedConvolution2dLayer(3, 1, 1, WeightsInitializer=lambda sz: np.ones(sz[:3]))
    assert made.to_nnx(2, rngs=nnx.Rngs(0)).weights.shape == (3, 3, 2, 1, 1)
