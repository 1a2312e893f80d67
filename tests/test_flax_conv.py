"""From Flax's ``Conv`` and back: the same numbers, or an error that says what is lost."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from grouped_conv_jax import linen
from grouped_conv_jax import nnx as gnnx

IMAGES = {1: (13,), 2: (9, 8), 3: (5, 6, 7)}
CASES = [
    (1, {"kernel_size": (4,), "padding": "CAUSAL", "kernel_dilation": 2}),
    (1, {"kernel_size": 3, "padding": "SAME", "strides": (2,)}),
    (1, {"kernel_size": (5,), "padding": "CIRCULAR"}),
    (1, {"kernel_size": (2,), "padding": [(1, 0)], "use_bias": False}),
    (2, {"kernel_size": (3, 2), "padding": "same", "strides": 2}),
    (2, {"kernel_size": (3, 2), "padding": "Valid"}),
    (2, {"kernel_size": (3, 2), "padding": "VALID", "strides": 2}),
    (2, {"kernel_size": (3, 4), "padding": "CIRCULAR", "strides": (2, 1)}),
    (2, {"kernel_size": (3, 3), "padding": "REFLECT", "kernel_dilation": (1, 2)}),
    (2, {"kernel_size": (3, 3), "padding": [1, (0, 2)]}),
    (2, {"kernel_size": (3, 3), "padding": 1, "strides": None}),
    (3, {"kernel_size": (3, 2, 3), "padding": "SAME", "strides": (1, 2, 1)}),
]


def images(axes):
    values = np.random.default_rng(0).standard_normal((2, *IMAGES[axes], 6))
    return jnp.asarray(values, jnp.float32)


def bias(module, size):
    """Biases that differ, so that an order mixed up is seen."""
    return jnp.arange(float(size)) if module.use_bias else None


@pytest.mark.parametrize(
    ("axes", "arguments", "groups"),
    [(*case, 3) for case in CASES] + [(*CASES[0], 1), (*CASES[4], 6)],
)
def test_linen_there_and_back(axes, arguments, groups):
    conv = nn.Conv(12, feature_group_count=groups, **arguments)
    x = images(axes)
    variables = conv.init(jax.random.key(1), x)
    if conv.use_bias:
        variables["params"]["bias"] = bias(conv, 12)
    expected = conv.apply(variables, x)
    layer, ours = getattr(linen, f"GroupedConv{axes}D").from_conv(conv, variables)
    np.testing.assert_allclose(layer.apply(ours, x), expected, rtol=1e-5, atol=1e-5)
    back, theirs = layer.to_conv(ours)
    jax.tree.map(np.testing.assert_array_equal, theirs, variables)
    np.testing.assert_allclose(back.apply(theirs, x), expected, rtol=1e-5, atol=1e-5)


# What is translated, and how, is Linen's.
@pytest.mark.parametrize(("axes", "arguments"), [CASES[3], CASES[6], CASES[9]])
def test_nnx_there_and_back(axes, arguments):
    conv = nnx.Conv(6, 12, feature_group_count=3, **arguments, rngs=nnx.Rngs(1))
    if conv.use_bias:
        conv.bias.set_value(bias(conv, 12))
    x = images(axes)
    layer = getattr(gnnx, f"GroupedConv{axes}D").from_conv(conv)
    np.testing.assert_allclose(layer(x), conv(x), rtol=1e-5, atol=1e-5)
    back = layer.to_conv()
    np.testing.assert_array_equal(back.kernel, conv.kernel)
    np.testing.assert_allclose(back(x), conv(x), rtol=1e-5, atol=1e-5)


def test_a_fresh_layer_starts_from_the_conv_s_own_initializers():
    def numbered(key, shape, dtype):
        del key
        return jnp.arange(np.prod(shape), dtype=dtype).reshape(shape)

    conv = nn.Conv(4, (3,), feature_group_count=2, kernel_init=numbered, bias_init=numbered)
    x = jnp.ones((1, 5, 6))
    variables = conv.init(jax.random.key(0), x)
    layer, ours = linen.GroupedConv1D.from_conv(conv, variables)
    jax.tree.map(np.testing.assert_array_equal, layer.init(jax.random.key(5), x), ours)
    assert layer == linen.GroupedConv1D.from_conv(conv, variables)[0]


def test_dtypes_and_precision_go_there_and_back():
    settings = {"dtype": jnp.bfloat16, "param_dtype": jnp.float16, "precision": "highest"}
    conv = nnx.Conv(4, 4, (3, 3), feature_group_count=2, **settings, rngs=nnx.Rngs(0))
    layer = gnnx.GroupedConv2D.from_conv(conv)
    for module in (layer, layer.to_conv()):
        assert {name: getattr(module, name) for name in settings} == settings


def test_factors_are_given_beside_the_conv_and_never_lost():
    conv, x = nn.Conv(4, (3,), feature_group_count=2), jnp.ones((1, 5, 4))
    layer, ours = linen.GroupedConv1D.from_conv(
        conv, conv.init(jax.random.key(0), x), weight_learn_rate_factor=0
    )
    assert layer.weight_learn_rate_factor == 0
    with pytest.raises(ValueError, match=r"no factors, got {'weight_learn_rate_factor': 0\.0}"):
        layer.to_conv(ours)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_dilation": 2}, "input_dilation 1 and no mask, got input_dilation=2"),
        ({"mask": np.ones((3, 3, 2, 4))}, "no mask, got input_dilation=1 and a mask ndarray"),
        ({"kernel_size": (3,)}, r"2 spatial axes, got kernel_size=\(3,\); use GroupedConv1D"),
        ({"preferred_element_type": jnp.float32}, "no preferred_element_type.*got <class"),
        ({"padding": "SAME_LOWER"}, "padding of a Conv must be 'SAME'.*got 'SAME_LOWER'"),
    ],
)
def test_what_no_grouped_convolution_has_is_refused(arguments, message):
    conv = nnx.Conv(
        4, 4, **{"kernel_size": (3, 3), "feature_group_count": 2} | arguments, rngs=nnx.Rngs(0)
    )
    with pytest.raises(ValueError, match=message):
        gnnx.GroupedConv2D.from_conv(conv)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data_format": "NCHW"}, "data_format must be 'BSSC' for a Conv of Flax, got 'BCSS'"),
        ({"padding": 1, "padding_value": 2}, "padding_value=2 must be a padding of Flax's Conv"),
        ({"padding": 2, "padding_value": "circular"}, "continued by half of the filter size"),
        ({"padding": 1, "padding_value": "replicate"}, "padding_value='replicate' must be"),
    ],
)
def test_what_no_conv_has_is_refused(arguments, message):
    layer = gnnx.GroupedConv2D(4, 3, 1, 2, **arguments, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=message):
        layer.to_conv()


def test_same_and_circular_is_flax_s_circular_at_stride_one():
    layer = gnnx.GroupedConv2D(
        6, (3, 4), 1, 2, padding="same", padding_value="circular", rngs=nnx.Rngs(0)
    )
    conv = layer.to_conv()
    assert conv.padding == "CIRCULAR"
    np.testing.assert_allclose(conv(images(2)), layer(images(2)), rtol=1e-5, atol=1e-5)


def test_learnables_in_boxes_are_refused():
    initializer = nn.with_partitioning(nn.initializers.ones, (None, None, None, "features"))
    conv, x = nn.Conv(4, (3, 3), kernel_init=initializer), jnp.ones((1, 5, 5, 4))
    with pytest.raises(TypeError, match="kernel must be an array, got Partitioned; unbox it"):
        linen.GroupedConv2D.from_conv(conv, conv.init(jax.random.key(0), x))


def test_another_layer_is_refused():
    with pytest.raises(TypeError, match="conv must be a Conv of Flax, got Linear"):
        gnnx.GroupedConv2D.from_conv(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
