"""One to three spatial dimensions: the function and the layers against a loop in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case
from flax import nnx

from grouped_conv_jax import explain, grouped_conv, grouped_conv2d, linen
from grouped_conv_jax import nnx as gnnx


def case(image, size, channels, filters, groups, sides, stride, dilation, spelled):
    return Case(
        (2, *image, channels * groups),
        (*size, channels, filters, groups),
        True,
        stride,
        dilation,
        sides,
        spelled.get("padding_value", 0),
        "B" + "S" * len(image) + "C",
        spelled,
        seed=7,
    )


CASES = {
    "1-D same": case((11,), (4,), 2, 3, 2, ((1, 2),), (2,), (1,), {"padding": "same", "stride": 2}),
    "1-D causal": case((9,), (3,), 1, 2, 4, ((4, 0),), (1,), (2,),
                       {"padding": "Causal", "dilation_factor": (2,)}),
    "1-D pair": case((9,), (3,), 2, 1, 3, ((2, 1),), (1,), (1,), {"padding": ((2, 1),)}),
    "1-D one number in a list": case((9,), (3,), 2, 1, 3, ((2, 2),), (1,), (1,), {"padding": [2]}),
    "1-D causal circular": case((9,), (3,), 1, 1, 3, ((2, 0),), (1,), (1,),
                                {"padding": "causal", "padding_value": "circular"}),
    "2-D circular": case((5, 6), (3, 4), 2, 2, 2, ((5, 4), (1, 6)), (1, 2), (1, 1),
                         {"padding": (5, 4, 1, 6), "padding_value": "circular", "stride": (1, 2)}),
    "2-D two numbers": case((5, 6), (3, 2), 1, 1, 4, ((1, 1), (2, 2)), (1, 1), (1, 1),
                            {"padding": (1, 2)}),
    "3-D same": case((4, 5, 6), (3, 2, 3), 2, 2, 2, ((1, 1), (0, 1), (0, 1)), (1, 1, 2), (1, 1, 1),
                     {"padding": "same", "stride": (1, 1, 2)}),
    "3-D three numbers": case((4, 5, 6), (3, 3, 3), 1, 2, 3, ((1, 1), (0, 0), (2, 2)), (1, 1, 1),
                              (1, 2, 1), {"padding": (1, 0, 2), "dilation_factor": (1, 2, 1)}),
    "3-D pairs, mirrored": case((4, 5, 6), (2, 2, 2), 3, 1, 2, ((1, 0), (2, 1), (0, 3)), (2, 1, 1),
                                (1, 1, 1), {"padding": ((1, 0), (2, 1), (0, 3)),
                                            "padding_value": "symmetric-exclude-edge",
                                            "stride": (2, 1, 1)}),
}  # fmt: skip
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
LAYERS = {1: "GroupedConv1D", 2: "GroupedConv2D", 3: "GroupedConv3D"}


@every_case
def test_function_and_gradients_are_those_of_the_loop(case):
    """The function is linear in each argument, so a difference of two values is a derivative."""
    x, weights, bias = case.arrays("float64")
    random = np.random.default_rng(8)
    y = case.expected([x, weights, bias], "float64")
    cotangent = random.standard_normal(y.shape)
    with jax.enable_x64(True):
        actual, pull = jax.vjp(functools.partial(grouped_conv, **case.spelled), x, weights, bias)
        gradients = pull(jnp.asarray(cotangent))
    np.testing.assert_allclose(actual, y, rtol=1e-12, atol=1e-12)
    for i, gradient in enumerate(gradients):
        arrays = [x, weights, bias]
        direction = random.standard_normal(arrays[i].shape)
        arrays[i] = arrays[i] + direction
        change = ((case.expected(arrays, "float64") - y) * cotangent).sum()
        np.testing.assert_allclose((np.asarray(gradient) * direction).sum(), change, rtol=1e-10)


@every_case
def test_linen_and_nnx_layers_are_the_loop(case):
    x, weights, bias = case.arrays("float32")
    arguments = {"initial_weights": weights, "initial_bias": bias} | case.spelled
    size, filters, groups = (
        case.weights_shape[:-3],
        *case.weights_shape[-2:],
    )
    name = LAYERS[len(size)]
    layer = getattr(linen, name)(size, filters, groups, **arguments)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    other = getattr(gnnx, name)(x.shape[-1], size, filters, groups, **arguments, rngs=nnx.Rngs(0))
    expected = case.expected([x, weights, bias], "float32")
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(other(x), y)
    assert variables["params"]["bias"].shape == other.bias.shape == bias.shape


@pytest.mark.parametrize(
    ("data_format", "order"),
    [("BCS", (0, 2, 1)), ("SCB", (1, 2, 0)), ("bsc", (0, 1, 2))],
)
def test_any_order_of_the_axes_of_a_sequence(data_format, order):
    x, weights, bias = CASES["1-D pair"].arrays("float64")
    expected = CASES["1-D pair"].expected([x, weights, bias], "float64")
    with jax.enable_x64(True):
        y = grouped_conv(
            x.transpose(order), weights, bias, padding=((2, 1),), data_format=data_format
        )
    np.testing.assert_allclose(y, expected.transpose(order), rtol=1e-12, atol=1e-12)


def test_a_causal_output_reads_no_later_input():
    x = jnp.zeros((1, 12, 2)).at[0, 7].set(jnp.nan)
    y = grouped_conv(x, jnp.ones((4, 1, 1, 2)), padding="causal")
    np.testing.assert_array_equal(np.isnan(y[0, :, 0]), np.isin(np.arange(12), (7, 8, 9, 10)))


def test_two_dimensions_are_grouped_conv2d():
    x, weights, bias = CASES["2-D circular"].arrays("float64")
    spelled = CASES["2-D circular"].spelled
    np.testing.assert_array_equal(
        grouped_conv(x, weights, bias, **spelled), grouped_conv2d(x, weights, bias, **spelled)
    )


def test_fans_are_counted_per_group_in_every_number_of_dimensions():
    # Uniform in [-a, a] with a = sqrt(6 / (fan_in + fan_out)).
    for size, layer in (((40,), linen.GroupedConv1D), ((3, 4, 5), linen.GroupedConv3D)):
        taps = int(np.prod(size))
        module = layer(size, 8, 25, use_bias=False)
        x = jnp.ones((1, *size, 100))
        weights = module.init(jax.random.key(0), x)["params"]["weights"]
        bound = np.sqrt(6 / (taps * 4 + taps * 8))
        assert 0.99 * bound < np.abs(weights).max() <= bound


SEQUENCE, FILTERS = jnp.ones((1, 8, 4)), jnp.ones((3, 1, 1, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding": (1, 2)}, r"padding must be .*\(\(before, after\),\), got \(1, 2\)"),
        ({"padding": "circular"}, "padding must be one of 'same', 'valid', 'causal'"),
        ({"stride": (1, 2)}, r"stride must be a positive integer or a sequence of one, got \(1, 2"),
        ({"data_format": "BSSC"}, "data_format must hold 'S' once.*got 'BSSC'"),
        ({"padding_value": "wrap"}, "got 'wrap'; that is 'circular' here"),
        ({"padding_value": "reflect"}, "got 'reflect'; that is 'symmetric-exclude-edge' here"),
        ({"padding_value": "zeros"}, "got 'zeros'; that is 0 here"),
        ({"padding": ((9, 0),), "padding_value": "circular"}, "at most 8 .*length 8, got"),
        ({"stride": 10**30}, r"stride must be at most 2\*\*31 - 1, got 10000"),
    ],
)
def test_what_is_wrong_in_one_dimension_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        grouped_conv(SEQUENCE, FILTERS, **arguments)


def test_causal_is_for_one_dimension_alone():
    with pytest.raises(ValueError, match="padding must be one of 'same', 'valid' or"):
        grouped_conv(jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 1, 1, 4)), padding="causal")


@pytest.mark.parametrize("shape", [(3, 1, 4), (3, 3, 3, 3, 1, 1, 4)])
def test_weights_for_no_or_four_dimensions_are_refused(shape):
    with pytest.raises(ValueError, match="weights must have four to six axes"):
        grouped_conv(SEQUENCE, jnp.ones(shape))


def test_weights_of_another_number_of_dimensions_are_refused_by_grouped_conv2d():
    with pytest.raises(ValueError, match="weights must have five axes"):
        grouped_conv2d(jnp.ones((1, 8, 8, 4)), FILTERS)


def test_three_sizes_are_asked_for_in_three_dimensions():
    with pytest.raises(ValueError, match=r"filter_size must be .*three of them.*got \(3, 3\)"):
        linen.GroupedConv3D((3, 3), 1, 4)


def test_a_shape_is_no_array():
    shape = jax.ShapeDtypeStruct((1, 8, 4), jnp.float32)
    with pytest.raises(TypeError, match=r"x must be an array, got ShapeDtypeStruct.*eval_shape"):
        grouped_conv(shape, FILTERS)


def test_explain_takes_any_number_of_dimensions_and_shapes_for_the_bias():
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 8, 4), (3, 1, 1, 4), (1, 1, 4))
    ]
    told = explain(*shapes, padding="causal", platform="gpu")
    assert told == explain(*shapes[:2], padding="causal", platform="cuda")
    assert set(told) == {"forward", "input_gradient", "filter_gradient"}
