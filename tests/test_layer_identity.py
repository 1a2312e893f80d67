"""Equality, hashes, static arguments and state of the layers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from grouped_conv_jax import _checks, linen
from grouped_conv_jax import nnx as gnnx
from grouped_conv_jax.layer import _hyperparameters

ARRAY = np.arange(12.0, dtype=np.float32).reshape(1, 1, 1, 3, 4)


def linen_layer(array=ARRAY, **arguments):
    return linen.GroupedConv2D(1, 3, 4, initial_weights=array, **arguments)


def nnx_layer(seed=0, **arguments):
    initializer = jax.nn.initializers.variance_scaling(
        2.0, "fan_in", "normal", in_axis=-3, out_axis=-2, batch_axis=-1
    )
    return gnnx.GroupedConv2D(
        4, 3, 1, 2, weights_initializer=initializer, **arguments, rngs=nnx.Rngs(seed)
    )


class TestLinen:
    def test_layers_with_equal_arrays_are_equal_and_have_one_hash(self):
        layers = linen_layer(), linen_layer(jnp.asarray(ARRAY))
        assert layers[0] == layers[1]
        assert len(set(layers)) == 1

    @pytest.mark.parametrize(
        "other",
        [
            lambda: linen_layer(ARRAY + 1),
            lambda: linen_layer(ARRAY.astype(np.float16)),
            lambda: linen_layer(None),
            lambda: linen_layer(stride=2),
            lambda: linen_layer(name="other"),
            lambda: linen.GroupedConv1D(1, 3, 4, initial_weights=ARRAY[0]),
        ],
    )
    def test_layers_that_differ_are_not_equal(self, other):
        assert linen_layer() != other()

    def test_equal_bytes_of_another_dtype_are_another_array(self):
        zeros = np.zeros_like(ARRAY, np.float16)
        assert linen_layer(zeros) == linen_layer(zeros.copy())
        assert linen_layer(zeros) != linen_layer(zeros.astype(jnp.bfloat16))

    def test_a_layer_with_arrays_is_a_static_argument(self):
        traces = []

        @functools.partial(jax.jit, static_argnums=0)
        def first_weights(layer, x):
            traces.append(layer)
            return layer.init(jax.random.key(0), x)["params"]["weights"]

        x = jnp.ones((1, 2, 2, 4))
        np.testing.assert_array_equal(first_weights(linen_layer(), x), ARRAY)
        np.testing.assert_array_equal(first_weights(linen_layer(ARRAY.copy()), x), ARRAY)
        np.testing.assert_array_equal(first_weights(linen_layer(ARRAY + 1), x), ARRAY + 1)
        assert len(traces) == 2

    def test_arguments_that_compare_equal_are_still_checked(self):
        # What was checked before is remembered; 3.0 equals 3, and True equals 1.
        linen.GroupedConv2D(3, 1, 1)
        with pytest.raises(TypeError, match=r"filter_size.*got 3\.0"):
            linen.GroupedConv2D(3.0, 1, 1)
        linen.GroupedConv2D((1, 3), 1, 1)
        with pytest.raises(TypeError, match=r"filter_size\[0\].*got True"):
            linen.GroupedConv2D((True, 3), 1, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"initial_weights": ARRAY, "initial_bias": jnp.ones((1, 1, 3, 4))},
        {"weights_initializer": jax.nn.initializers.normal(0.5), "dtype": "float32"},
        {"stride": [1, 2], "padding": [1, 0, 2, 1]},
    ],
    ids=["words", "arrays", "callable", "lists"],
)
def test_calls_check_no_argument_again(arguments, monkeypatch):
    checked, per_axis = [], _checks.per_axis

    def spy(name, *rest):
        checked.append(name)
        return per_axis(name, *rest)

    monkeypatch.setattr(_checks, "per_axis", spy)
    _hyperparameters._checked.cache_clear()
    once = ["stride", "dilation_factor", "filter_size"]
    x = jnp.ones((1, 5, 7, 4))

    layer = linen.GroupedConv2D(1, 3, 4, **arguments)
    variables = layer.init(jax.random.key(0), x)
    # As given, and in the one form that the module holds and Flax copies.
    assert checked == once * 2
    for _ in range(3):
        layer.apply(variables, x)
        nn.Sequential([layer.clone()]).apply({"params": {"layers_0": variables["params"]}}, x)
    assert checked == once * 2

    checked.clear()
    module = gnnx.GroupedConv2D(4, 1, 3, 4, **arguments, rngs=nnx.Rngs(0))
    for _ in range(3):
        nnx.merge(*nnx.split(module))(x)
    assert checked == once


class TestNnx:
    def test_equal_layers_with_an_initializer_are_traced_once(self):
        traces = []

        @nnx.jit
        def call(layer, x):
            traces.append(layer)
            return layer(x)

        x = jnp.ones((1, 5, 5, 4))
        for seed in range(3):
            layer = nnx_layer(seed)
            expected = layer(x)
            np.testing.assert_allclose(call(layer, x), expected, rtol=1e-6, atol=1e-6)
        assert len(traces) == 1

    def test_layers_stack(self):
        layers = [nnx_layer(seed) for seed in range(3)]
        graphs, states = zip(*(nnx.split(layer) for layer in layers), strict=True)
        assert len(set(graphs)) == 1
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        x = jnp.ones((3, 1, 5, 5, 4))
        y = jax.vmap(lambda state, x: nnx.merge(graphs[0], state)(x))(stacked, x)
        np.testing.assert_allclose(y[2], layers[2](x[2]), rtol=1e-6, atol=1e-6)

    def test_nothing_is_kept_that_construction_alone_needed(self):
        layer = nnx_layer(initial_bias=np.ones((1, 1, 1, 2), np.float32))
        held = (layer.weights_initializer, layer.initial_weights, layer.initial_bias)
        assert held == (None, None, None)
        np.testing.assert_array_equal(layer.bias, np.ones((1, 1, 1, 2)))

    def test_a_hyperparameter_can_be_set_and_is_checked(self):
        layer, x = nnx_layer(use_bias=False), jnp.ones((1, 5, 5, 4))
        layer.padding = 1
        layer.weight_learn_rate_factor = 0
        assert layer(x).shape == (1, 5, 5, 2)
        assert layer.padding_size == (1, 1, 1, 1)
        assert layer.weight_learn_rate_factor == 0.0
        with pytest.raises(ValueError, match="stride must be a positive integer, got 0"):
            layer.stride = 0
        assert layer.stride == (1, 1)

    @pytest.mark.parametrize("name", ["num_groups", "filter_size", "param_dtype", "initial_bias"])
    def test_what_the_learnables_follow_from_is_read_only(self, name):
        with pytest.raises(AttributeError, match=f"{name} cannot change"):
            setattr(nnx_layer(), name, 3)


@pytest.mark.parametrize(
    ("argument", "ours"),
    [
        ("features", "num_filters_per_group"),
        ("kernel_size", "filter_size"),
        ("strides", "stride"),
        ("kernel_dilation", "dilation_factor"),
        ("feature_group_count", "num_groups"),
        ("kernel_init", "weights_initializer"),
        ("bias_init", "bias_initializer"),
        ("paddings", "padding"),
    ],
)
def test_names_of_flax_are_answered_with_ours(argument, ours):
    for build in (
        lambda **keywords: linen.GroupedConv2D(3, 1, 4, **keywords),
        lambda **keywords: gnnx.GroupedConv2D(4, 3, 1, 4, **keywords, rngs=nnx.Rngs(0)),
    ):
        with pytest.raises(TypeError, match=f"GroupedConv2D has no argument '{argument}'.*{ours}"):
            build(**{argument: 3})


def test_the_kernel_of_a_conv_is_answered_with_what_brings_it_here():
    params = {"kernel": jnp.ones((3, 3, 1, 4)), "bias": jnp.ones(4)}
    with pytest.raises(ValueError, match=r"weights, got the kernel.*GroupedConv2D\.from_conv"):
        linen.GroupedConv2D(3, 1, 4).apply({"params": params}, jnp.ones((1, 5, 5, 4)))


@pytest.mark.parametrize("zero", [np.float32(0.5), np.asarray(0.5), jnp.asarray(0.5)])
def test_numbers_may_be_arrays_without_axes(zero):
    layer = linen.GroupedConv2D(3, 1, 4, padding_value=zero, weight_l2_factor=zero)
    assert (layer.padding_value, layer.weight_l2_factor) == (0.5, 0.5)
