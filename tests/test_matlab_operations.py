"""Each layer under its MATLAB name: what it computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from matlab_layer import random

from grouped_conv_jax import matlab
from grouped_conv_jax.matlab import (
    averagePooling2dLayer,
    batchNormalizationLayer,
    convolution2dLayer,
    dropoutLayer,
    fullyConnectedLayer,
    globalAveragePooling2dLayer,
    imageInputLayer,
    layers,
    maxPooling2dLayer,
    reluLayer,
    softmaxLayer,
)


def apply(layer, x, train=False):
    """What a layer makes of images, in Linen and in NNX, which must agree."""
    network = layers(layer)
    module = network.to_linen()
    variables = module.init(jax.random.key(0), x)
    y, _ = module.apply(variables, x, train, mutable=["batch_stats"])
    if isinstance(layer, matlab.ImageInputLayer):
        other = network.to_nnx(rngs=nnx.Rngs(0))
    else:
        inputs = imageInputLayer(x.shape[1:], Normalization="none")
        other = layers(inputs, layer).to_nnx(rngs=nnx.Rngs(0))
    other.train() if train else other.eval()
    if not variables.get("params"):
        np.testing.assert_allclose(other(x), y, rtol=1e-6, atol=1e-6)
    return np.asarray(y)


def test_a_convolution_is_that_of_one_group():
    x = random(2, 7, 6, 3)
    weights, bias = random(3, 2, 3, 4, seed=1), random(1, 1, 4, seed=2)
    layer = convolution2dLayer([3, 2], 4, Stride=2, Padding=[1, 0], Weights=weights, Bias=bias)
    expected = reference.grouped_conv(
        x, weights[..., None], bias[..., None], stride=(2, 2), sides=((1, 1), (0, 0))
    )
    np.testing.assert_allclose(apply(layer, x), expected, rtol=1e-4, atol=1e-5)
    assert [layer.Weights.shape, layer.Bias.shape] == [(3, 2, 3, 4), (1, 1, 4)]
    assert "[3x2x3x4 single]" in str(layer)


def test_functions_get_matlabs_sizes():
    sizes = []

    def count(sz):
        sizes.append(sz)
        return np.arange(np.prod(sz), dtype=float).reshape(sz)

    functions = {"WeightsInitializer": count, "BiasInitializer": count}
    network = layers(
        imageInputLayer([4, 4, 3]),
        convolution2dLayer(3, 5, **functions),
        batchNormalizationLayer(OffsetInitializer=count, ScaleInitializer=count),
        fullyConnectedLayer(2, **functions),
    )
    params = network.to_linen().init(jax.random.key(0), jnp.ones((1, 4, 4, 3)))["params"]
    assert set(sizes) == {(3, 3, 3, 5), (1, 1, 5), (2, 20), (2, 1)}
    expected = np.arange(40.0).reshape(2, 20)
    np.testing.assert_array_equal(params["fc"]["kernel"], expected.T)
    np.testing.assert_array_equal(params["batchnorm"]["scale"], np.arange(5))
    sizes.clear()
    module = network.to_nnx(rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(module.fc.kernel[...], expected.T)


def windows(x, pool, stride, sides, value):
    """The pooling regions, ``(B, H', W', C, pool)``."""
    padded = np.pad(x, ((0, 0), sides[:2], sides[2:], (0, 0)), constant_values=value)
    found = np.lib.stride_tricks.sliding_window_view(padded, pool, (1, 2))
    return found[:, :: stride[0], :: stride[1]].reshape(
        *found[:, :: stride[0], :: stride[1]].shape[:4], -1
    )


@pytest.mark.parametrize(
    ("padding", "sides"),
    [(0, (0, 0, 0, 0)), ([1, 0, 0, 2], (1, 0, 0, 2)), ("same", (0, 1, 1, 1))],
)
def test_pooling(padding, sides):
    x = random(2, 6, 5, 3)
    arguments = {"Stride": [2, 1], "Padding": padding}
    regions = windows(x, (3, 3), (2, 1), sides, np.nan)
    largest = apply(maxPooling2dLayer(3, **arguments), x)
    np.testing.assert_array_equal(largest, np.nanmax(regions, -1))
    mean = apply(averagePooling2dLayer(3, **arguments), x)
    np.testing.assert_allclose(mean, np.nansum(regions, -1) / 9, rtol=1e-5, atol=1e-6)
    of_pixels = apply(averagePooling2dLayer(3, **arguments, PaddingValue="mean"), x)
    np.testing.assert_allclose(of_pixels, np.nanmean(regions, -1), rtol=1e-5, atol=1e-6)


def test_global_average_pooling():
    x = random(2, 4, 5, 3)
    expected = x.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(apply(globalAveragePooling2dLayer(), x), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "pooling", [matlab.globalAveragePooling2dLayer, matlab.maxPooling2dLayer(2)]
)
def test_what_is_no_image_is_not_pooled(pooling):
    network = matlab.layers(
        [matlab.imageInputLayer([4, 4, 3]), matlab.fullyConnectedLayer(3), pooling]
    )
    with pytest.raises(
        ValueError, match=r"the axes \(B, H, W, C\) to be pooled, got shape \(1, 3\)"
    ):
        matlab.analyze(network)


def test_relu_and_softmax():
    x = random(2, 4, 5, 3)
    np.testing.assert_array_equal(apply(reluLayer(), x), np.maximum(x, 0))
    exponentials = np.exp(x.astype(float))
    expected = exponentials / exponentials.sum(-1, keepdims=True)
    np.testing.assert_allclose(apply(softmaxLayer(), x), expected, rtol=1e-5)


def test_a_fully_connected_layer_flattens_column_major():
    x, weights, bias = random(2, 3, 4, 5), random(7, 60, seed=1), random(7, 1, seed=2)
    layer = fullyConnectedLayer(7, Weights=weights, Bias=bias)
    flat = np.stack([image.flatten(order="F") for image in x])
    expected = flat @ weights.T + bias.T
    np.testing.assert_allclose(apply(layer, x), expected, rtol=1e-4, atol=1e-4)
    inputs = imageInputLayer([3, 4, 5], Normalization="none")
    module = layers(inputs, layer, fullyConnectedLayer(2)).to_nnx(rngs=nnx.Rngs(0))
    np.testing.assert_allclose(module.fc_1(x), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"must have as many columns .* got 12 inputs"):
        apply(layer, random(2, 3, 4, 1))


def test_batch_normalization_by_the_batch_and_by_the_statistics():
    x = random(8, 4, 5, 3) * 3 + 100
    arrays = {
        "Offset": random(1, 1, 3, seed=1),
        "Scale": random(1, 1, 3, seed=2),
        "TrainedMean": random(1, 1, 3, seed=3),
        "TrainedVariance": random(1, 1, 3, seed=4) ** 2,
    }
    layer = batchNormalizationLayer(Epsilon=0.5, **arrays)
    offset, scale, mean, variance = (arrays[name].astype(float) for name in arrays)
    expected = (x - mean) / np.sqrt(variance + 0.5) * scale + offset
    np.testing.assert_allclose(apply(layer, x), expected, rtol=1e-5, atol=1e-4)
    batch_mean, batch_variance = x.mean((0, 1, 2), float), x.var((0, 1, 2), float)
    expected = (x - batch_mean) / np.sqrt(batch_variance + 0.5) * scale + offset
    np.testing.assert_allclose(apply(layer, x, train=True), expected, rtol=1e-3, atol=1e-3)

    inputs = imageInputLayer([4, 5, 3], Normalization="none")
    module = layers(inputs, layer).to_nnx(rngs=nnx.Rngs(0))
    np.testing.assert_allclose(module(x), expected, rtol=1e-3, atol=1e-3)
    moved = 0.9 * mean + 0.1 * batch_mean
    np.testing.assert_allclose(module.batchnorm.mean[...], moved.ravel(), rtol=1e-5)


@pytest.mark.parametrize("decays", [{"MeanDecay": 0.2}, {"MeanDecay": 0, "VarianceDecay": 1}])
def test_each_running_statistic_has_its_own_decay(decays):
    batches = [random(8, 4, 5, 3, seed=seed) * (seed + 2) + seed for seed in (1, 2)]
    layer = batchNormalizationLayer(**decays)
    mean, variance = np.zeros(3), np.ones(3)
    for batch in batches:
        mean += layer.MeanDecay * (batch.mean((0, 1, 2), float) - mean)
        variance += layer.VarianceDecay * (batch.var((0, 1, 2), float) - variance)

    network = layers(imageInputLayer([4, 5, 3], Normalization="none"), layer)
    linen, nnx_module = network.to_linen(), network.to_nnx(rngs=nnx.Rngs(0))
    variables = linen.init(jax.random.key(0), batches[0])
    for batch in batches:
        _, changed = linen.apply(variables, batch, True, mutable=["batch_stats"])
        variables = {**variables, **changed}
        nnx_module(batch)
    nnx_module.eval()
    nnx_module(batches[0])
    held = variables["batch_stats"]["batchnorm"]
    for found in (held, {name: getattr(nnx_module.batchnorm, name)[...] for name in held}):
        np.testing.assert_allclose(found["mean"], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["var"], variance, rtol=1e-5)


def test_dropout_drops_in_training_alone():
    x = np.ones((4, 30, 30, 3), np.float32)
    network = layers(dropoutLayer(0.25))
    module = network.to_linen()
    np.testing.assert_array_equal(module.apply({}, x), x)
    y = np.asarray(module.apply({}, x, True, rngs={"dropout": jax.random.key(0)}))
    assert set(np.unique(y).tolist()) == {0.0, np.float32(1 / 0.75).item()}
    assert abs((y == 0).mean() - 0.25) < 0.02


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        ("none", lambda x, _: x),
        ("zerocenter", lambda x, s: x - s["Mean"]),
        ("zscore", lambda x, s: (x - s["Mean"]) / s["StandardDeviation"]),
        ("rescale-zero-one", lambda x, s: (x - s["Min"]) / (s["Max"] - s["Min"])),
        ("rescale-symmetric", lambda x, s: 2 * (x - s["Min"]) / (s["Max"] - s["Min"]) - 1),
        (jnp.exp, lambda x, _: np.exp(x)),
    ],
)
def test_normalization_of_images(normalization, expected):
    x = random(2, 3, 4, 2)
    statistics = {
        "Mean": random(1, 1, 2, seed=1),
        "StandardDeviation": random(3, 4, 2, seed=2) ** 2 + 1,
        "Min": np.full((1, 1, 1), -2.0),
        "Max": random(1, 1, 2, seed=3) ** 2 + 1,
    }
    layer = imageInputLayer([3, 4, 2], Normalization=normalization, **statistics)
    np.testing.assert_allclose(apply(layer, x), expected(x, statistics), rtol=1e-4, atol=1e-5)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"InputSize=\(3, 4, 2\), got \(4, 3, 2\)"):
        apply(imageInputLayer([3, 4, 2]), random(2, 4, 3, 2))


@pytest.mark.parametrize("word", ["glorot", "he", "narrow-normal", "zeros", "ones"])
def test_the_initializers_of_a_fully_connected_layer_count_its_inputs_and_outputs(word):
    layer = fullyConnectedLayer(300, WeightsInitializer=word)
    x = jnp.ones((1, 10, 10, 5))
    kernel = layers(layer).to_linen().init(jax.random.key(0), x)["params"]["fc"]["kernel"]
    assert kernel.shape == (500, 300)
    deviation = {"glorot": np.sqrt(2 / 800), "he": np.sqrt(2 / 500), "narrow-normal": 0.01}
    assert np.std(kernel) == pytest.approx(deviation.get(word, 0), rel=0.01)
    if word == "glorot":
        assert np.abs(kernel).max() <= np.sqrt(6 / 800)
    assert np.mean(kernel) == pytest.approx(float(word == "ones"), abs=1e-3)
