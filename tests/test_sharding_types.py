"""On a mesh with explicit axes results have sharded types, and what cannot have one is named."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from sharding_cases import convolve, make_mesh, same

from grouped_conv_jax import conv_general_dilated, grouped_conv2d


@pytest.fixture(autouse=True)
def mesh():
    with jax.set_mesh(make_mesh(AxisType.Explicit)):
        yield


def types(x, filters):
    shapes = (8, 16, 4, 16), (4, 3, 2, 16)
    operands = [
        jax.device_put(jnp.ones(shape), spec)
        for shape, spec in zip(shapes, (x, filters), strict=True)
    ]
    function = functools.partial(convolve, convolution=same(filter_size=(4, 3)).convolution)
    return jax.typeof(function(*operands)).sharding.spec


def test_what_only_one_operand_splits_is_split_in_the_result():
    result = types(P("data"), P(None, None, None, "model"))
    assert result == P("data", None, None, "model")
    assert types(P(None, "data", None, "model"), P()) == P(None, "data", None, "model")


def test_gradients_have_the_types_of_what_they_are_gradients_of():
    x = jax.device_put(jnp.ones((8, 16, 4, 16)), P("data"))
    weights = jax.device_put(jnp.ones((3, 3, 2, 2, 8)), P(None, None, None, None, "model"))
    bias = jax.device_put(jnp.ones((1, 1, 2, 8)), P(None, None, None, "model"))

    def loss(x, weights, bias):
        return jnp.sum(jnp.sin(grouped_conv2d(x, weights, bias, padding="same")))

    gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(x, weights, bias)
    assert jax.tree.map(jax.typeof, gradients) == tuple(map(jax.typeof, (x, weights, bias)))


@pytest.mark.parametrize(
    ("x", "filters", "received"),
    [
        (P(), P(None, None, "data"), "P(None, None, 'data', None)"),
        (P(), P("data"), "P('data', None, None, None)"),
        (P("data"), P(None, None, None, "data"), "P(None, None, None, 'data')"),
        (P(*[None] * 3, "model"), P(*[None] * 3, "data"), "P(None, None, None, 'data')"),
    ],
)
def test_filters_that_cannot_stay_sharded_are_named(x, filters, received):
    message = rf"the sharding of the filters .*; got {re.escape(received)} .*jax.sharding.reshard"
    with pytest.raises(ValueError, match=message):
        types(x, filters)


@pytest.mark.parametrize("name", ["weights", "bias"])
def test_learnables_that_are_not_split_by_groups_are_named(name):
    learnables = {"weights": jnp.ones((3, 3, 1, 4, 2)), "bias": jnp.ones((1, 1, 4, 2))}
    spec = P(*[None] * (learnables[name].ndim - 2), "model")
    learnables[name] = jax.device_put(learnables[name], spec)
    message = rf"{name} of shape .*, got P\(None.*, 'model', None\); use jax.sharding.reshard"
    with pytest.raises(ValueError, match=message):
        grouped_conv2d(jnp.ones((2, 8, 8, 2)), **learnables)


def test_channels_are_not_cut_within_a_group():
    x = jax.device_put(jnp.ones((2, 8, 8, 8)), P(None, None, None, "model"))
    weights = jnp.ones((3, 3, 4, 1, 2))
    message = r"the sharding of x .*; got P\(None, None, None, 'model'\) for shape \(2, 8, 8, 8\)"
    with pytest.raises(ValueError, match=message):
        grouped_conv2d(x, weights)


def test_a_filter_larger_than_its_output_is_split_like_any_other():
    x = jax.device_put(jnp.ones((8, 8, 8, 16)), P("data"))
    filters = jnp.ones((7, 7, 4, 16))

    def convolve(x, filters):
        return conv_general_dilated(
            x,
            filters,
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        )

    y = convolve(x, filters)
    assert jax.typeof(y).sharding.spec == P("data", None, None, None)
    assert (y == 7 * 7 * 4).all()
