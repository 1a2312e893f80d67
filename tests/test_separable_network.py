"""The separable network in both APIs, against a NumPy forward pass from the same parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from reference import grouped_conv, same_padding

from grouped_conv_jax import linen
from grouped_conv_jax import nnx as grouped_nnx

HEIGHT, WIDTH, CHANNELS, CLASSES = 9, 14, 3, 5
MOMENTUM, EPSILON = 0.9, 1e-5
LAYERS = {"convolution": (3, 1), "channel_wise": (3, 2), "pointwise": (1, 1)}


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(1), (4, HEIGHT, WIDTH, CHANNELS))


@pytest.fixture(scope="module")
def variables(images):
    """Parameters and statistics none of which has the value that it starts with."""
    shapes = jax.eval_shape(linen.SeparableNetwork(CLASSES).init, jax.random.key(0), images)
    random = np.random.default_rng(2)
    drawn = jax.tree.map(
        lambda a: random.uniform(0.2, 1.5, a.shape) * random.choice([-1, 1], a.shape), shapes
    )
    # Variances are positive.
    drawn["batch_stats"] = jax.tree.map(np.abs, drawn["batch_stats"])
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), drawn)


def numpy_logits(variables, images, train):
    """The specification's network, layer by layer in float64, and the new running statistics."""
    params, stats = jax.tree.map(
        lambda a: np.asarray(a, np.float64), (variables["params"], variables["batch_stats"])
    )
    x, running = np.asarray(images, np.float64), {}
    for name, (size, stride) in LAYERS.items():
        sides = [same_padding(x.shape[axis], size, stride, 1) for axis in (1, 2)]
        weights, bias = params[name]["weights"], params[name]["bias"]
        x = grouped_conv(x, weights, bias, stride=(stride, stride), sides=sides)
        mean, variance = stats[f"{name}_norm"]["mean"], stats[f"{name}_norm"]["var"]
        if train:
            old = {"mean": mean, "var": variance}
            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
            new = {"mean": mean, "var": variance}
            running[f"{name}_norm"] = {
                k: MOMENTUM * old[k] + (1 - MOMENTUM) * new[k] for k in ("mean", "var")
            }
        norm = params[f"{name}_norm"]
        x = (x - mean) / np.sqrt(variance + EPSILON) * norm["scale"] + norm["bias"]
        x = np.maximum(x, 0)
    rows, columns = x.shape[1] // 2, x.shape[2] // 2
    pooled = np.stack(
        [
            x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2))
            for i, j in np.ndindex(rows, columns)
        ],
        axis=1,
    )
    dense = params["fully_connected"]
    return pooled.reshape(len(x), -1) @ dense["kernel"] + dense["bias"], running


def nnx_network(variables):
    network = grouped_nnx.SeparableNetwork(
        CHANNELS, CLASSES, image_size=(HEIGHT, WIDTH), rngs=nnx.Rngs(0)
    )
    nnx.update(network, variables["params"])
    nnx.update(network, variables["batch_stats"])
    return network


@pytest.mark.parametrize("train", [False, True])
def test_linen_logits_and_statistics_are_those_of_numpy(variables, images, train):
    logits, changes = linen.SeparableNetwork(CLASSES).apply(
        variables, images, train, method="logits", mutable=["batch_stats"] if train else []
    )
    expected, running = numpy_logits(variables, images, train)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert bool(changes) is train
    if train:
        assert jax.tree.structure(changes["batch_stats"]) == jax.tree.structure(running)
        jax.tree.map(
            lambda got, wanted: np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4),
            changes["batch_stats"],
            running,
        )


@pytest.mark.parametrize("train", [False, True])
def test_nnx_gives_bitwise_what_linen_gives(variables, images, train):
    expected, changes = linen.SeparableNetwork(CLASSES).apply(
        variables, images, train, method="logits", mutable=["batch_stats"]
    )
    network = nnx_network(variables)
    if train:
        network.train()
    else:
        network.eval()
    np.testing.assert_array_equal(network.logits(images), expected)
    statistics = nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
    jax.tree.map(np.testing.assert_array_equal, statistics, changes["batch_stats"])


def test_calling_gives_the_softmax_of_the_logits(variables, images):
    network = linen.SeparableNetwork(CLASSES)
    logits, _ = numpy_logits(variables, images, train=False)
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    expected = exponentials / exponentials.sum(-1, keepdims=True)
    np.testing.assert_allclose(network.apply(variables, images), expected, rtol=2e-3, atol=1e-6)
    nnx_model = nnx_network(variables)
    nnx_model.eval()
    np.testing.assert_array_equal(nnx_model(images), network.apply(variables, images))


def test_at_227_pixels_the_network_is_the_specifications():
    network = linen.SeparableNetwork(5)
    image = jax.ShapeDtypeStruct((1, 227, 227, 3), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)
    expected = {
        "convolution": {"weights": (3, 3, 3, 32, 1), "bias": (1, 1, 32, 1)},
        "convolution_norm": {"scale": (32,), "bias": (32,)},
        "channel_wise": {"weights": (3, 3, 1, 1, 32), "bias": (1, 1, 1, 32)},
        "channel_wise_norm": {"scale": (32,), "bias": (32,)},
        "pointwise": {"weights": (1, 1, 32, 16, 1), "bias": (1, 1, 16, 1)},
        "pointwise_norm": {"scale": (16,), "bias": (16,)},
        # 227 / 2 rounded up is 114, and pooling leaves 57.
        "fully_connected": {"kernel": (57 * 57 * 16, 5), "bias": (5,)},
    }
    assert jax.tree.map(lambda a: a.shape, shapes["params"]) == expected
    assert jax.eval_shape(network.apply, shapes, image).shape == (1, 5)
    # 227 pixels are what the NNX network takes where nothing else is said.
    model = nnx.eval_shape(lambda: grouped_nnx.SeparableNetwork(3, 5, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert jax.tree.map(lambda a: a.shape, params) == expected


@pytest.mark.parametrize("size", [(3, 3), (3, 7), (4, 5), (8, 8)])
def test_both_apis_take_any_image_of_three_pixels_or_more(size):
    image = jnp.ones((2, *size, 1))
    network = linen.SeparableNetwork(4)
    logits = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), image)[0])
    assert logits.shape == (2, 4)
    model = nnx.eval_shape(
        lambda: grouped_nnx.SeparableNetwork(1, 4, image_size=size, rngs=nnx.Rngs(0))(image)
    )
    assert model.shape == (2, 4)


def test_factors_of_all_layers_are_found_alike_in_both_apis(images):
    model = linen.SeparableNetwork(CLASSES)
    factors = linen.learnable_factors(model, jax.random.key(0), images)
    assert set(jax.tree.leaves(factors.learn_rate)) == {1.0}
    for layer in factors.l2.values():
        assert layer == {name: 0.0 if name == "bias" else 1.0 for name in layer}
    other = grouped_nnx.learnable_factors(
        nnx.eval_shape(lambda: grouped_nnx.SeparableNetwork(CHANNELS, CLASSES, rngs=nnx.Rngs(0)))
    )
    assert nnx.to_pure_dict(other.l2) == factors.l2
    assert nnx.to_pure_dict(other.learn_rate) == factors.learn_rate


def test_gradients_reach_every_parameter(variables, images):
    model = linen.SeparableNetwork(CLASSES)
    labels = jnp.arange(4)

    @jax.jit
    def loss(params):
        logits, _ = model.apply(
            variables | {"params": params},
            images,
            train=True,
            method="logits",
            mutable=["batch_stats"],
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    gradients = jax.grad(loss)(variables["params"])
    for path, gradient in jax.tree.leaves_with_path(gradients):
        assert np.isfinite(gradient).all(), path
        # Batch normalization takes away whatever a bias right before it adds.
        before_norm = path[0].key in LAYERS and path[1].key == "bias"
        assert before_norm or np.abs(gradient).max() > 1e-6, path


def test_16_bit_computation_keeps_32_bit_parameters(images):
    model = linen.SeparableNetwork(CLASSES, dtype=jnp.bfloat16)
    # Flax's batch normalization itself relies on promotion from 16 bits.
    with jax.numpy_dtype_promotion("standard"):
        y, shapes = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images))
    assert y.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves(shapes["params"])} == {jnp.dtype("float32")}


def refusals():
    def nnx_model(*args, **kwargs):
        return grouped_nnx.SeparableNetwork(*args, **kwargs, rngs=nnx.Rngs(0))

    def linen_call(shape):
        return linen.SeparableNetwork(2).init(jax.random.key(0), jnp.zeros(shape))

    def nnx_call(shape):
        return nnx_model(1, 2, image_size=8)(jnp.zeros(shape))

    integer = "num_classes must be a positive integer"
    return {
        "linen no classes": (ValueError, f"{integer}, got 0", linen.SeparableNetwork, 0),
        "linen bool": (TypeError, f"{integer}, got True", linen.SeparableNetwork, True),
        "linen float": (TypeError, f"{integer}, got 2.0", linen.SeparableNetwork, 2.0),
        "linen small": (ValueError, "at least 3, got 2 x 8", linen_call, (1, 2, 8, 1)),
        "linen rank": (ValueError, r"got shape \(8, 8\)", linen_call, (8, 8)),
        "nnx no classes": (ValueError, f"{integer}, got -1", nnx_model, 1, -1),
        "nnx no channels": (ValueError, "num_channels must be .*got 0", nnx_model, 0, 2),
        "nnx size": (
            ValueError,
            r"image_size must be .*got \(8, 8, 3\)",
            nnx_model,
            1,
            2,
            (8, 8, 3),
        ),
        "nnx small": (ValueError, "at least 3, got 8 x 2", nnx_model, 1, 2, (8, 2)),
        "nnx other size": (
            ValueError,
            r"image_size=\(8, 8\), got shape \(1, 8, 9, 1\)",
            nnx_call,
            (1, 8, 9, 1),
        ),
        "nnx channels": (ValueError, "channels", nnx_call, (1, 8, 8, 3)),
        "nnx rank": (ValueError, r"got shape \(8, 8\)", nnx_call, (8, 8)),
    }


@pytest.mark.parametrize("case", refusals())
def test_bad_input_is_refused_by_name_and_value(case):
    kind, message, function, *arguments = refusals()[case]
    with pytest.raises(kind, match=message):
        function(*arguments)
