"""Layer arrays: names, tables, the Flax modules they become, and factors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matlab_layer import random

import grouped_conv_jax
from grouped_conv_jax.matlab import (
    analyze,
    averagePooling2dLayer,
    batchNormalizationLayer,
    classificationLayer,
    convolution2dLayer,
    dropoutLayer,
    fullyConnectedLayer,
    globalAveragePooling2dLayer,
    groupedConvolution2dLayer,
    imageInputLayer,
    layers,
    maxPooling2dLayer,
    reluLayer,
    softmaxLayer,
)


def small(**properties):
    return layers(
        imageInputLayer([6, 5, 2]),
        convolution2dLayer(3, 4, Padding="same", WeightLearnRateFactor=2, BiasL2Factor=3),
        batchNormalizationLayer(ScaleLearnRateFactor=4, OffsetL2Factor=5),
        reluLayer,
        groupedConvolution2dLayer(3, 2, "channel-wise", WeightL2Factor=6),
        maxPooling2dLayer(2, Stride=2),
        fullyConnectedLayer(3, BiasLearnRateFactor=7, WeightL2Factor=8, **properties),
        softmaxLayer,
        classificationLayer,
    )


def test_a_list_and_single_arguments_make_the_same():
    listed = layers([reluLayer, softmaxLayer(Name="s")])
    assert listed == layers(reluLayer(), softmaxLayer(Name="s"))
    assert (len(listed), listed[1].Name) == (2, "s")
    assert layers(listed[:1]) != listed


def test_empty_names_are_filled_in():
    network = layers(
        imageInputLayer([4, 4, 2]),
        convolution2dLayer(1, 2),
        convolution2dLayer(1, 2, Name="conv_1"),
        convolution2dLayer(1, 2),
        groupedConvolution2dLayer(1, 1, 2),
        groupedConvolution2dLayer(1, 1, 2),
        batchNormalizationLayer,
        batchNormalizationLayer,
        reluLayer,
        reluLayer,
        maxPooling2dLayer(1),
        averagePooling2dLayer(1),
        globalAveragePooling2dLayer,
        dropoutLayer,
        fullyConnectedLayer(2),
        softmaxLayer,
        classificationLayer,
    )
    assert [layer.Name for layer in network] == [
        *("imageinput", "conv_2", "conv_1", "conv_3", "groupedconv_1", "groupedconv_2"),
        *("batchnorm_1", "batchnorm_2", "relu_1", "relu_2", "maxpool", "avgpool2d", "gapool"),
        *("dropout", "fc", "softmax", "classoutput"),
    ]


def test_layers_are_copied():
    layer = reluLayer()
    network = layers(layer, layer)
    network[0].Name = "first"
    assert (layer.Name, network[1].Name) == ("", "relu_2")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: layers(reluLayer, 3), TypeError, "layers[1] must be a layer, got 3"),
        (lambda: layers("relu"), TypeError, "layers[0] must be a layer, got 'r'"),
        (
            lambda: layers(reluLayer(Name="a"), softmaxLayer(Name="a")),
            ValueError,
            "the layers' names must differ, got 'a' 2 times",
        ),
        (
            lambda: layers(reluLayer).to_nnx(rngs=nnx.Rngs(0)),
            ValueError,
            "to_nnx must know the size of the images: the network must begin with imageInputLayer, "
            "got ReLU",
        ),
        (
            lambda: layers(imageInputLayer([2, 2, 1], Name="train")).to_nnx(rngs=nnx.Rngs(0)),
            ValueError,
            "Name must not be that of an attribute, got 'train'",
        ),
        (lambda: small().to_linen("BSC"), ValueError, "data_format must hold 'B' and 'C' once"),
        (lambda: analyze(3), TypeError, "layers[0] must be a layer, got 3"),
    ],
)
def test_what_is_no_network_is_refused(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_an_error_says_in_which_layer_it_was():
    network = layers(imageInputLayer([2, 2, 1]), reluLayer, convolution2dLayer(3, 1, Name="large"))
    with pytest.raises(ValueError, match="padded image of size") as refused:
        analyze(network)
    assert "in layer 'large'" in refused.value.__notes__
    with pytest.raises(ValueError, match="padded image of size") as refused:
        network.to_linen().init(jax.random.key(0), jnp.ones((1, 2, 2, 1)))
    assert "in layer 'large'" in refused.value.__notes__


def test_the_table_of_layers():
    network = layers(
        *small()[:5],
        averagePooling2dLayer([2, 3], Padding="same"),
        globalAveragePooling2dLayer,
        dropoutLayer(0.1),
        *small()[6:],
    )
    assert str(network).splitlines() == [
        "  11x1 Layer array with layers:",
        "",
        "     1   'imageinput'    Image Input                  "
        "6x5x2 images with 'zerocenter' normalization",
        "     2   'conv'          2-D Convolution              "
        "4 3x3 convolutions with stride [1  1] and padding 'same'",
        "     3   'batchnorm'     Batch Normalization          Batch normalization",
        "     4   'relu'          ReLU                         ReLU",
        "     5   'groupedconv'   2-D Grouped Convolution      "
        "channel-wise groups of 2 3x3 convolutions with stride [1  1] and padding [0  0  0  0]",
        "     6   'avgpool2d'     2-D Average Pooling          "
        "2x3 average pooling with stride [1  1] and padding 'same'",
        "     7   'gapool'        2-D Global Average Pooling   2-D global average pooling",
        "     8   'dropout'       Dropout                      10% dropout",
        "     9   'fc'            Fully Connected              3 fully connected layer",
        "    10   'softmax'       Softmax                      softmax",
        "    11   'classoutput'   Classification Output        crossentropyex",
    ]


def test_analysis_tells_sizes_and_numbers_of_learnables():
    analysis = analyze(small())
    assert [(a.activations, dict(a.learnables), a.num_learnables) for a in analysis] == [
        ((6, 5, 2), {}, 0),
        ((6, 5, 4), {"Weights": (3, 3, 2, 4), "Bias": (1, 1, 4)}, 76),
        ((6, 5, 4), {"Offset": (1, 1, 4), "Scale": (1, 1, 4)}, 8),
        ((6, 5, 4), {}, 0),
        ((4, 3, 8), {"Weights": (3, 3, 1, 2, 4), "Bias": (1, 1, 2, 4)}, 80),
        ((2, 1, 8), {}, 0),
        ((3,), {"Weights": (3, 16), "Bias": (3, 1)}, 51),
        ((3,), {}, 0),
        ((3,), {}, 0),
    ]
    assert analysis.num_learnables == 76 + 8 + 80 + 51
    lines = str(analysis).splitlines()
    assert lines[2].split() == [
        *("2", "conv", "4", "3x3", "convolutions", "with", "stride", "[1", "1]", "and", "padding"),
        *("'same'", "6x5x4", "Weights", "3x3x2x4,", "Bias", "1x1x4", "76"),
    ]
    assert lines[-1] == "learnables: 215"


def test_both_modules_have_the_layers_names_and_compute_the_same():
    network = small()
    images = random(4, 6, 5, 2)
    module, other = network.to_linen(), network.to_nnx(rngs=nnx.Rngs(0))
    variables = module.init(jax.random.key(0), images)
    assert set(variables["params"]) == {"conv", "batchnorm", "groupedconv", "fc"}
    state = nnx.to_pure_dict(nnx.state(other, nnx.Param))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, variables["params"])
    nnx.update(other, nnx.State(variables["params"]))
    other.eval()
    scores = module.apply(variables, images)
    assert scores.shape == (4, 3)
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(other(images), scores, rtol=1e-5)
    logits = module.apply(variables, images, method="logits")
    np.testing.assert_allclose(jax.nn.softmax(logits), scores, rtol=1e-6)

    other.train()
    trained, changed = module.apply(variables, images, True, mutable=["batch_stats"])
    np.testing.assert_allclose(other(images), trained, rtol=1e-4, atol=1e-6)
    moved = changed["batch_stats"]["batchnorm"]["var"]
    np.testing.assert_allclose(other.batchnorm.var[...], moved, rtol=1e-5)


@pytest.mark.parametrize(
    ("data_format", "axes"),
    [("SSCB", (1, 2, 3, 0)), ("NCHW", (0, 3, 1, 2)), ("sscb", (1, 2, 3, 0))],
)
def test_images_in_any_order_of_axes(data_format, axes):
    images = random(4, 6, 5, 2)
    network = small()
    variables = network.to_linen().init(jax.random.key(0), images)
    expected = network.to_linen().apply(variables, images)
    transposed = images.transpose(axes)
    scores = network.to_linen(data_format).apply(variables, transposed)
    np.testing.assert_array_equal(scores, expected)
    module = network.to_nnx(rngs=nnx.Rngs(0), data_format=data_format)
    assert module(transposed).shape == (4, 3)
    body = layers(network[:4])
    found = body.to_linen(data_format).apply(
        body.to_linen().init(jax.random.key(0), images), transposed
    )
    assert found.shape == tuple(np.array((4, 6, 5, 4))[list(axes)])


def test_factors_reach_the_solvers():
    network = small()
    images = random(1, 6, 5, 2)
    module = network.to_linen()
    expected_rate = {
        "conv": {"weights": 2, "bias": 1},
        "batchnorm": {"scale": 4, "bias": 1},
        "groupedconv": {"weights": 1, "bias": 1},
        "fc": {"kernel": 1, "bias": 7},
    }
    expected_l2 = {
        "conv": {"weights": 1, "bias": 3},
        "batchnorm": {"scale": 1, "bias": 5},
        "groupedconv": {"weights": 6, "bias": 0},
        "fc": {"kernel": 8, "bias": 0},
    }
    factors = grouped_conv_jax.linen.learnable_factors(module, jax.random.key(0), images)
    assert (factors.learn_rate, factors.l2) == (expected_rate, expected_l2)
    factors = grouped_conv_jax.nnx.learnable_factors(network.to_nnx(rngs=nnx.Rngs(0)))
    assert nnx.to_pure_dict(factors.learn_rate) == expected_rate
    assert nnx.to_pure_dict(factors.l2) == expected_l2


def test_factors_of_a_single_layer_reach_the_solvers():
    layer = batchNormalizationLayer(ScaleL2Factor=0)
    factors = grouped_conv_jax.linen.learnable_factors(
        layer.to_linen(), jax.random.key(0), random(1, 2, 2, 3), use_running_average=True
    )
    assert factors.l2 == {"scale": 0, "bias": 1}


def test_equal_networks_make_equal_modules():
    weights = random(3, 16)
    one, other, third = small(Weights=weights), small(Weights=weights.copy()), small()
    assert one.to_linen() == other.to_linen() != third.to_linen()
    assert hash(one.to_linen()) == hash(other.to_linen())
    traces = []

    @nnx.jit
    def run(module, images):
        traces.append(1)
        return module(images)

    for network in (third, small()):
        run(network.to_nnx(rngs=nnx.Rngs(0)), random(1, 6, 5, 2))
    assert len(traces) == 1
