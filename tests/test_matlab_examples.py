"""The four examples of the specification, in Python's syntax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import reference
from matlab_layer import random

from grouped_conv_jax.matlab import groupedConvolution2dLayer


def test_groups_of_filters():
    gconv1 = groupedConvolution2dLayer(11, 10, 3, Name="gconv1")
    assert (
        str(gconv1)
        == repr(gconv1)
        == "\n".join(
            [
                "  GroupedConvolution2DLayer with properties:",
                "",
                "                   Name: 'gconv1'",
                "",
                "   Hyperparameters",
                "             FilterSize: [11 11]",
                "              NumGroups: 3",
                "    NumChannelsPerGroup: 'auto'",
                "     NumFiltersPerGroup: 10",
                "                 Stride: [1 1]",
                "         DilationFactor: [1 1]",
                "            PaddingMode: 'manual'",
                "            PaddingSize: [0 0 0 0]",
                "           PaddingValue: 0",
                "",
                "   Learnable Parameters",
                "                Weights: []",
                "                   Bias: []",
            ]
        )
    )
    x = random(2, 12, 13, 6)
    module = gconv1.to_linen()
    variables = module.init(jax.random.key(0), x)
    assert module.name == "gconv1"
    weights, bias = variables["params"]["weights"], variables["params"]["bias"]
    assert (weights.shape, bias.shape) == ((11, 11, 2, 10, 3), (1, 1, 10, 3))
    expected = reference.grouped_conv2d(x, weights, bias)
    np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-4, atol=1e-5)


def test_channel_wise():
    cwconv1 = groupedConvolution2dLayer(11, 10, "channel-wise", "Name", "cwconv1")
    assert (cwconv1.Name, cwconv1.NumGroups) == ("cwconv1", "channel-wise")
    assert "              NumGroups: 'channel-wise'" in str(cwconv1).splitlines()
    x = random(12, 11, 3)
    variables = cwconv1.to_linen().init(jax.random.key(0), x)
    weights = variables["params"]["weights"]
    assert weights.shape == (11, 11, 1, 10, 3)
    expected = reference.grouped_conv2d(x, weights)
    y = cwconv1.to_linen().apply(variables, x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


class SeparableBlock(nn.Module):
    """Channel-wise 3x3 with stride 2, then 1x1 across channels, each with batch norm and ReLU."""

    @nn.compact
    def __call__(self, x):
        x = groupedConvolution2dLayer(3, 1, "channel-wise", Stride=2, Padding="same").to_linen()(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-5)(x))
        x = nn.Conv(5, (1, 1))(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-5)(x))


def test_separable_block():
    x = random(2, 8, 7, 3)
    block = SeparableBlock()
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)
    # Random statistics and biases too; squared, since variances are not negative.
    leaves, tree = jax.tree.flatten(shapes)
    values = [random(*leaf.shape, seed=seed) ** 2 for seed, leaf in enumerate(leaves)]
    variables = jax.tree.unflatten(tree, values)
    params, statistics = variables["params"], variables["batch_stats"]

    def norm_and_relu(y, name):
        mean, variance = statistics[name]["mean"], statistics[name]["var"]
        scaled = (y - mean) / np.sqrt(variance + 1e-5) * params[name]["scale"]
        return np.maximum(scaled + params[name]["bias"], 0)

    depthwise = params["GroupedConv2D_0"]
    # Height 8 needs one row, at the bottom; width 7 one column on either side.
    y = reference.grouped_conv2d(
        x, depthwise["weights"], depthwise["bias"], stride=(2, 2), sides=((0, 1), (1, 1))
    )
    y = norm_and_relu(y, "BatchNorm_0")
    y = y @ params["Conv_0"]["kernel"][0, 0].astype(np.float64) + params["Conv_0"]["bias"]
    expected = norm_and_relu(y, "BatchNorm_1")
    assert expected.shape == (2, 4, 4, 5)
    np.testing.assert_allclose(block.apply(variables, x), expected, rtol=1e-4, atol=1e-4)


class SeparableNetwork(nn.Module):
    """The network of the specification, its convolutions written as in MATLAB."""

    @nn.compact
    def __call__(self, x):
        for convolution in (
            groupedConvolution2dLayer(3, 32, 1, Name="conv", Padding="same"),
            groupedConvolution2dLayer(
                3, 1, "channel-wise", Name="cwconv", Stride=2, Padding="same"
            ),
            groupedConvolution2dLayer(1, 16, 1, Name="pointwise", Padding="same"),
        ):
            x = convolution.to_linen()(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.softmax(nn.Dense(5)(x.ravel()))


def test_separable_network():
    network = SeparableNetwork()
    x = jnp.zeros((227, 227, 3))
    probabilities, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), x)
    assert probabilities.shape == (5,)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes["conv"] == {"weights": (3, 3, 3, 32, 1), "bias": (1, 1, 32, 1)}
    assert shapes["cwconv"] == {"weights": (3, 3, 1, 1, 32), "bias": (1, 1, 1, 32)}
    assert shapes["pointwise"] == {"weights": (1, 1, 32, 16, 1), "bias": (1, 1, 16, 1)}
    # The stride leaves 114 rows and columns, the pooling 57.
    assert shapes["Dense_0"]["kernel"] == (57 * 57 * 16, 5)
