"""`trainNetwork` against NumPy, and what `predict` and `classify` make of the result."""

import re

import numpy as np
import pytest
from matlab_layer import random
from matlab_training import IMAGES, LABELS, QUIET, WEIGHTS, linear

import grouped_conv_jax
from grouped_conv_jax.matlab import (
    batchNormalizationLayer,
    classificationLayer,
    classify,
    convolution2dLayer,
    dropoutLayer,
    fullyConnectedLayer,
    imageInputLayer,
    layers,
    predict,
    reluLayer,
    softmaxLayer,
    trainingOptions,
    trainNetwork,
)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def flat(images):
    """Pixels in column-major order."""
    return np.stack([image.flatten(order="F") for image in images]).astype(float)


def descend(batches, rates, images=IMAGES, momentum=0.9, l2=1e-4, factors=(1, 1, 1, 0)):
    """Stochastic gradient descent with momentum on the linear network, in NumPy."""
    weights, bias = WEIGHTS.astype(float), np.zeros(3)
    weight_velocity, bias_velocity = 0.0, 0.0
    losses = []
    targets = np.eye(3)[np.unique(LABELS, return_inverse=True)[1]]
    weight_rate, bias_rate, weight_l2, bias_l2 = factors
    for batch, rate in zip(batches, rates, strict=True):
        x, t = flat(images[batch]), targets[batch]
        p = softmax(x @ weights.T + bias)
        losses.append(-np.log((p * t).sum(-1)).mean())
        gradient = (p - t).T @ x / len(x) + l2 * weight_l2 * weights
        weight_velocity = momentum * weight_velocity - rate * weight_rate * gradient
        bias_gradient = (p - t).mean(0) + l2 * bias_l2 * bias
        bias_velocity = momentum * bias_velocity - rate * bias_rate * bias_gradient
        weights, bias = weights + weight_velocity, bias + bias_velocity
    return weights, bias, losses


IN_ORDER = [slice(0, 8), slice(8, 16)]


def test_sgdm_by_its_formula_and_an_incomplete_mini_batch_is_left_out():
    options = trainingOptions("sgdm", MaxEpochs=3, Shuffle="never", **QUIET)
    trained = trainNetwork(IMAGES, LABELS, linear(), options)
    weights, bias, losses = descend(IN_ORDER * 3, [0.01] * 6)
    np.testing.assert_allclose(trained.Layers[1].Weights, weights, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(trained.Layers[1].Bias[:, 0], bias, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(trained.info["TrainingLoss"], losses, rtol=1e-5)


def test_factors_rates_that_drop_and_the_other_options_are_the_solvers():
    network = linear(
        WeightLearnRateFactor=2, BiasLearnRateFactor=3, WeightL2Factor=4, BiasL2Factor=5
    )
    options = trainingOptions(
        "sgdm",
        InitialLearnRate=0.5,
        Momentum=0.5,
        L2Regularization=0.01,
        LearnRateSchedule="piecewise",
        LearnRateDropFactor=0.5,
        LearnRateDropPeriod=2,
        MaxEpochs=5,
        Shuffle="never",
        **QUIET,
    )
    trained = trainNetwork(IMAGES, LABELS, network, options)
    rates = [0.5] * 4 + [0.25] * 4 + [0.125] * 2
    weights, bias, losses = descend(IN_ORDER * 5, rates, IMAGES, 0.5, 0.01, (2, 3, 4, 5))
    np.testing.assert_allclose(trained.info["BaseLearnRate"], rates, rtol=1e-6)
    np.testing.assert_allclose(trained.info["TrainingLoss"], losses, rtol=1e-4)
    np.testing.assert_allclose(trained.Layers[1].Weights, weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trained.Layers[1].Bias[:, 0], bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("solver", "options", "expected"),
    [
        (
            "adam",
            {"GradientDecayFactor": 0.8, "SquaredGradientDecayFactor": 0.9, "Epsilon": 0.1},
            grouped_conv_jax.optim.adam(0.001, 0.8, 0.9, 0.1),
        ),
        (
            "rmsprop",
            {"SquaredGradientDecayFactor": 0.8, "Epsilon": 0.1},
            grouped_conv_jax.optim.rmsprop(0.001, 0.8, 0.1),
        ),
        (
            "sgdm",
            {"GradientThreshold": 0.05, "GradientThresholdMethod": "absolute-value"},
            grouped_conv_jax.optim.sgdm(
                gradient_threshold=0.05, gradient_threshold_method="absolute-value"
            ),
        ),
    ],
)
def test_every_option_reaches_its_solver(solver, options, expected):
    made = trainingOptions(
        solver, MaxEpochs=1, Shuffle="never", MiniBatchSize=20, Verbose=0, **options
    )
    trained = trainNetwork(IMAGES, LABELS, linear(BiasLearnRateFactor=0), made)
    x, targets = flat(IMAGES), np.eye(3)[np.unique(LABELS, return_inverse=True)[1]]
    gradient = ((softmax(x @ WEIGHTS.T) - targets).T @ x / 20).astype(np.float32)
    updates, _ = expected.update(gradient, expected.init(WEIGHTS), WEIGHTS)
    np.testing.assert_allclose(trained.Layers[1].Weights, WEIGHTS + updates, rtol=1e-5, atol=1e-6)
    assert not trained.Layers[1].Bias.any()


@pytest.mark.parametrize("shuffle", ["once", "every-epoch"])
def test_shuffling_follows_the_seed(shuffle):
    def weights(**options):
        options = trainingOptions("sgdm", MaxEpochs=2, Shuffle=shuffle, **QUIET, **options)
        return trainNetwork(IMAGES, LABELS, linear(), options).Layers[1].Weights

    np.testing.assert_array_equal(weights(), weights(Seed=0))
    assert (weights() != weights(Seed=1)).any()
    generator = np.random.default_rng(0)
    first = generator.permutation(20)
    second = first if shuffle == "once" else generator.permutation(first)
    batches = [order[start : start + 8] for order in (first, second) for start in (0, 8)]
    expected, _, _ = descend(batches, [0.01] * 4)
    np.testing.assert_allclose(weights(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("normalization", "dimension", "axes"),
    [
        ("zerocenter", "auto", (0, 1, 2)),
        ("zscore", "element", (0,)),
        ("rescale-symmetric", "all", (0, 1, 2, 3)),
    ],
)
def test_statistics_of_the_images_are_measured_and_kept(normalization, dimension, axes):
    images = random(20, 2, 3, 2) * 5 + 3
    image_input = imageInputLayer(
        [2, 3, 2], Normalization=normalization, NormalizationDimension=dimension
    )
    network = layers(image_input, fullyConnectedLayer(3), softmaxLayer, classificationLayer)
    options = trainingOptions("sgdm", MaxEpochs=1, **QUIET)
    kept = trainNetwork(images, LABELS, network, options).Layers[0]
    if normalization == "rescale-symmetric":
        expected = {"Min": images.min(axes), "Max": images.max(axes)}
    else:
        expected = {"Mean": images.mean(axes, float), "StandardDeviation": images.std(axes, float)}
    if normalization == "zerocenter":
        del expected["StandardDeviation"]
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(kept, name).squeeze(), value, rtol=1e-5)
    assert network[0].Mean is None


def test_statistics_that_are_set_stay_where_asked():
    mean = np.full((1, 1, 1), 7.0)
    network = [imageInputLayer([2, 3, 1], Mean=mean), *linear()[1:]]
    options = trainingOptions("sgdm", MaxEpochs=1, ResetInputNormalization=False, **QUIET)
    assert trainNetwork(IMAGES, LABELS, network, options).Layers[0].Mean == 7
    options.ResetInputNormalization = True
    kept = trainNetwork(IMAGES, LABELS, network, options).Layers[0].Mean
    np.testing.assert_allclose(kept, IMAGES.mean(dtype=float), rtol=1e-4)


def with_batch_normalization():
    first = linear()[0]
    return [first, batchNormalizationLayer, dropoutLayer, *linear(WeightLearnRateFactor=0)[1:]]


def test_batch_normalization_gets_the_statistics_of_all_training_images():
    options = trainingOptions("sgdm", MaxEpochs=1, Shuffle="never", **QUIET)
    trained = trainNetwork(IMAGES, LABELS, with_batch_normalization(), options).Layers[1]
    np.testing.assert_allclose(trained.TrainedMean, IMAGES[:16].mean(dtype=float), rtol=1e-4)
    np.testing.assert_allclose(trained.TrainedVariance, IMAGES[:16].var(dtype=float), rtol=1e-4)
    assert trained.Scale.shape == trained.TrainedMean.shape == (1, 1, 1)


def test_or_the_running_ones():
    options = trainingOptions(
        "sgdm", MaxEpochs=1, Shuffle="never", BatchNormalizationStatistics="moving", **QUIET
    )
    trained = trainNetwork(IMAGES, LABELS, with_batch_normalization(), options).Layers[1]
    mean, variance = 0.0, 1.0
    for batch in (IMAGES[:8], IMAGES[8:16]):
        mean = 0.9 * mean + 0.1 * batch.mean(dtype=float)
        variance = 0.9 * variance + 0.1 * batch.var(dtype=float)
    np.testing.assert_allclose(trained.TrainedMean, mean, rtol=1e-4)
    np.testing.assert_allclose(trained.TrainedVariance, variance, rtol=1e-4)


def test_a_trained_network_predicts_classifies_and_goes_on():
    network = [
        imageInputLayer([2, 3, 1]),
        convolution2dLayer(2, 4),
        batchNormalizationLayer,
        reluLayer,
        fullyConnectedLayer(3),
        softmaxLayer,
        classificationLayer,
    ]
    options = trainingOptions(
        "adam", InitialLearnRate=0.05, MaxEpochs=40, MiniBatchSize=10, Verbose=False
    )
    trained = trainNetwork(IMAGES, LABELS, network, options)
    assert trained.Classes.tolist() == ["a", "b", "c"]
    scores = predict(trained, IMAGES)
    assert (scores.shape, scores.dtype) == ((20, 3), np.float32)
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(predict(trained, IMAGES, MiniBatchSize=3), scores, rtol=1e-5)
    transposed = predict(trained, IMAGES.transpose(1, 2, 3, 0), data_format="SSCB")
    np.testing.assert_array_equal(transposed, scores)
    labels = classify(trained, IMAGES)
    np.testing.assert_array_equal(labels, trained.Classes[scores.argmax(-1)])
    assert (labels == LABELS).mean() > 0.9

    # Its layers hold all that there is to know, for another network or another training.
    module = trained.Layers.to_linen()
    variables = module.init(grouped_conv_jax.matlab._training.jax.random.key(5), IMAGES)
    np.testing.assert_allclose(module.apply(variables, IMAGES), scores, rtol=1e-5)
    first = trainNetwork(IMAGES, LABELS, trained.Layers, options).info["TrainingLoss"][0]
    assert first < trained.info["TrainingLoss"][0] / 2
    head = [fullyConnectedLayer(2), softmaxLayer, classificationLayer]
    options.MaxEpochs = 1
    other = trainNetwork(IMAGES, LABELS == "a", [*trained.Layers[:-3], *head], options)
    assert other.Classes.tolist() == [False, True]


@pytest.mark.parametrize("labels", [LABELS == "a", list("cab" * 6 + "ca")])
def test_labels_come_back_as_they_were(labels):
    network = [*linear()[:1], fullyConnectedLayer(len(set(labels))), *linear()[2:]]
    options = trainingOptions("sgdm", MaxEpochs=1, **QUIET)
    found = classify(trainNetwork(IMAGES, labels, network, options), IMAGES)
    assert found.dtype == np.asarray(labels).dtype
    assert set(found) <= set(labels)


def test_classes_keep_their_order():
    network = [*linear()[:3], classificationLayer(Classes=["c", "a", "b"])]
    options = trainingOptions("sgdm", InitialLearnRate=0, MaxEpochs=1, Shuffle="never", **QUIET)
    trained = trainNetwork(IMAGES, LABELS, network, options)
    p = softmax(flat(IMAGES[:8]) @ WEIGHTS.T)
    right = p[np.arange(8), ["cab".index(label) for label in LABELS[:8]]]
    np.testing.assert_allclose(trained.info["TrainingLoss"][0], -np.log(right).mean(), rtol=1e-5)
    assert trained.Classes.tolist() == ["c", "a", "b"]


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_images_of_any_real_dtype(dtype):
    images = np.arange(120).reshape(20, 2, 3, 1).astype(dtype)
    options = trainingOptions("sgdm", InitialLearnRate=1e-5, MaxEpochs=1, Shuffle="never", **QUIET)
    trained = trainNetwork(images, LABELS, linear(), options)
    expected, _, _ = descend(IN_ORDER, [1e-5] * 2, images)
    np.testing.assert_allclose(trained.Layers[1].Weights, expected, rtol=1e-4, atol=1e-5)


def test_the_table_of_a_training(capsys):
    options = trainingOptions(
        "sgdm",
        InitialLearnRate=0.01,
        MaxEpochs=2,
        MiniBatchSize=8,
        VerboseFrequency=3,
        ValidationFrequency=2,
        ValidationData=(IMAGES[:5], LABELS[:5]),
        Shuffle="never",
    )
    trained = trainNetwork(IMAGES, LABELS, linear(), options)
    printed = capsys.readouterr().out
    assert re.sub(r"\d", "#", printed).splitlines() == [
        f"|{'=' * 118}|",
        "|  Epoch  |  Iteration  |  Time Elapsed  |  Mini-batch  |  Validation  |  Mini-batch  |"
        "  Validation  |  Base Learning  |",
        "|         |             |   (hh:mm:ss)   |   Accuracy   |   Accuracy   |     Loss     |"
        "     Loss     |      Rate       |",
        f"|{'=' * 118}|",
        "|       # |           # |       ##:##:## |       ##.##% |       ##.##% |       #.#### |"
        "       #.#### |          #.#### |",
        "|       # |           # |       ##:##:## |       ##.##% |              |       #.#### |"
        "              |          #.#### |",
        "|       # |           # |       ##:##:## |       ##.##% |       ##.##% |       #.#### |"
        "       #.#### |          #.#### |",
        f"|{'=' * 118}|",
        "Training finished: Max epochs completed.",
    ]
    info = trained.info
    assert np.isnan(info["ValidationLoss"]).tolist() == [False, False, True, False]
    assert "|       1 |           1 |" in printed
    assert "|       2 |           4 |" in printed
    _, _, losses = descend(IN_ORDER * 2, [0.01] * 4)
    assert f"|       {losses[0]:.4f} |" in printed
    weights, bias, _ = descend(IN_ORDER[:1], [0.01])
    p = softmax(flat(IMAGES[:5]) @ weights.T + bias)
    right = p[np.arange(5), ["abc".index(label) for label in LABELS[:5]]]
    np.testing.assert_allclose(info["ValidationLoss"][0], -np.log(right).mean(), rtol=1e-5)
