"""The specification's examples in its own words, but for brackets and commas."""

# fmt: off

import jax
import numpy as np
import reference
from matlab_layer import random
from sklearn.datasets import load_digits

from grouped_conv_jax.matlab import (
    analyze,
    batchNormalizationLayer,
    classificationLayer,
    classify,
    convolution2dLayer,
    dropoutLayer,
    fullyConnectedLayer,
    groupedConvolution2dLayer,
    imageInputLayer,
    layers,
    maxPooling2dLayer,
    predict,
    reluLayer,
    softmaxLayer,
    trainingOptions,
    trainNetwork,
)


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
    expected = reference.grouped_conv(x, weights, bias)
    np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-4, atol=1e-5)


def test_channel_wise():
    cwconv1 = groupedConvolution2dLayer(11, 10, "channel-wise", "Name", "cwconv1")
    assert (cwconv1.Name, cwconv1.NumGroups) == ("cwconv1", "channel-wise")
    assert "              NumGroups: 'channel-wise'" in str(cwconv1).splitlines()
    x = random(12, 11, 3)
    variables = cwconv1.to_linen().init(jax.random.key(0), x)
    weights = variables["params"]["weights"]
    assert weights.shape == (11, 11, 1, 10, 3)
    expected = reference.grouped_conv(x, weights)
    y = cwconv1.to_linen().apply(variables, x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def separable_block(num_filters):
    return layers(
        groupedConvolution2dLayer(3, 1, 'channel-wise', 'Stride', 2, 'Padding', 'same'),
        batchNormalizationLayer,
        reluLayer,
        convolution2dLayer(1, num_filters, 'Padding', 'same'),
        batchNormalizationLayer,
        reluLayer)


def test_separable_block():
    x = random(2, 8, 7, 3)
    module = separable_block(5).to_linen()
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    # Random statistics and biases too; squared, since variances are not negative.
    leaves, tree = jax.tree.flatten(shapes)
    values = [random(*leaf.shape, seed=seed) ** 2 for seed, leaf in enumerate(leaves)]
    variables = jax.tree.unflatten(tree, values)
    params, statistics = variables["params"], variables["batch_stats"]

    def norm_and_relu(y, name):
        mean, variance = statistics[name]["mean"], statistics[name]["var"]
        scaled = (y - mean) / np.sqrt(variance + 1e-5) * params[name]["scale"]
        return np.maximum(scaled + params[name]["bias"], 0)

    depthwise, pointwise = params["groupedconv"], params["conv"]
    # Height 8 needs one row, at the bottom; width 7 one column on either side.
    y = reference.grouped_conv(
        x, depthwise["weights"], depthwise["bias"], stride=(2, 2), sides=((0, 1), (1, 1))
    )
    y = norm_and_relu(y, "batchnorm_1")
    y = y @ pointwise["weights"][0, 0, :, :, 0].astype(np.float64) + pointwise["bias"][0, 0, :, 0]
    expected = norm_and_relu(y, "batchnorm_2")
    assert expected.shape == (2, 4, 4, 5)
    np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-4, atol=1e-4)


def separable_network(input_size, num_classes):
    return [
        imageInputLayer(input_size),
        convolution2dLayer(3, 32, 'Padding', 'same'),
        batchNormalizationLayer,
        reluLayer,
        groupedConvolution2dLayer(3, 1, 'channel-wise', 'Stride', 2, 'Padding', 'same'),
        batchNormalizationLayer,
        reluLayer,
        convolution2dLayer(1, 16, 'Padding', 'same'),
        batchNormalizationLayer,
        reluLayer,
        maxPooling2dLayer(2, 'Stride', 2),
        fullyConnectedLayer(num_classes),
        softmaxLayer,
        classificationLayer]


def test_separable_network_recognizes_digits():
    digits = load_digits()
    enlarged = np.kron(digits.images, np.ones((3, 3)))
    images = np.pad(enlarged, ((0, 0), (2, 2), (2, 2)))[..., np.newaxis].astype(np.float32)
    options = trainingOptions('adam',
        InitialLearnRate=0.01,
        MaxEpochs=2,
        MiniBatchSize=32,
        Verbose=False)
    network = separable_network([28, 28, 1], 10)
    trained = trainNetwork(images[:640], digits.target[:640], network, options)
    found = classify(trained, images[640:1000])
    assert (found == digits.target[640:1000]).mean() > 0.7


def test_separable_network_on_large_images():
    network = layers(separable_network([227, 227, 3], 5))
    sizes = {layer.name: layer.activations for layer in analyze(network)}
    # The stride leaves 114 rows and columns, the pooling 57.
    assert (sizes["conv_2"], sizes["maxpool"], sizes["fc"]) == ((114, 114, 16), (57, 57, 16), (5,))
    assert analyze(network).num_learnables == 896 + 320 + 528 + 2 * 80 + 57 * 57 * 16 * 5 + 5
    images, labels = squares(5, 5)
    options = trainingOptions('sgdm',
        InitialLearnRate=0.001,
        MaxEpochs=4,
        MiniBatchSize=5,
        Shuffle='never',
        Verbose=False)
    trained = trainNetwork(images, labels, network, options)
    assert trained.info["TrainingLoss"][-1] < 0.5 * trained.info["TrainingLoss"][0]
    assert predict(trained, images).shape == (5, 5)


def squares(number, num_classes):
    """Images of 227x227x3 with a bright square, whose place is the class."""
    labels = np.arange(number) % num_classes
    images = np.random.default_rng(0).integers(0, 64, (number, 227, 227, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[40 * label : 40 * label + 40, 100:140] = 255
    return images, labels


def alexnet(units, num_classes):
    """Krizhevsky et al. (2012), without the normalization across channels."""
    return layers(
        imageInputLayer([227, 227, 3]),
        convolution2dLayer(11, 96, 'Stride', 4),
        reluLayer,
        maxPooling2dLayer(3, 'Stride', 2),
        groupedConvolution2dLayer(5, 128, 2, 'Padding', 2),
        reluLayer,
        maxPooling2dLayer(3, 'Stride', 2),
        convolution2dLayer(3, 384, 'Padding', 1),
        reluLayer,
        groupedConvolution2dLayer(3, 192, 2, 'Padding', 1),
        reluLayer,
        groupedConvolution2dLayer(3, 128, 2, 'Padding', 1),
        reluLayer,
        maxPooling2dLayer(3, 'Stride', 2),
        fullyConnectedLayer(units),
        reluLayer,
        dropoutLayer(0.5),
        fullyConnectedLayer(units),
        reluLayer,
        dropoutLayer(0.5),
        fullyConnectedLayer(num_classes),
        softmaxLayer,
        classificationLayer)


def test_alexnet_has_its_sizes():
    analysis = analyze(alexnet(4096, 1000))
    assert analysis.num_learnables == 60_965_224
    sizes = {layer.name: layer.activations for layer in analysis}
    assert sizes["conv_1"] == (55, 55, 96)
    assert (sizes["maxpool_1"], sizes["groupedconv_1"]) == ((27, 27, 96), (27, 27, 256))
    assert (sizes["maxpool_2"], sizes["maxpool_3"]) == ((13, 13, 256), (6, 6, 256))
    assert analysis[4].learnables == {"Weights": (5, 5, 48, 128, 2), "Bias": (1, 1, 128, 2)}


def test_alexnet_trains():
    images, labels = squares(4, 2)
    options = trainingOptions('adam', MaxEpochs=1, MiniBatchSize=2, Verbose=False)
    trained = trainNetwork(images, labels, alexnet(32, 2), options)
    assert np.isfinite(trained.info["TrainingLoss"]).all()
    assert trained.Layers[4].Weights.shape == (5, 5, 48, 128, 2)
    np.testing.assert_allclose(predict(trained, images).sum(-1), 1, rtol=1e-5)
