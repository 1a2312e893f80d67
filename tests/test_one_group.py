"""One group is a dense convolution: the kernels' on a CPU, lax's when sharded and elsewhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drop_in_cases import arrays
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from sharding_cases import BOTH, collectives, make_mesh

from grouped_conv_jax import conv_general_dilated, explain, grouped_conv2d

NUMBERS = ("NHWC", "HWIO", "NHWC")
SHAPES = (8, 6, 5, 16), (1, 1, 16, 24)


def layer(x, filters, strides=(1, 1), **arguments):
    return grouped_conv2d(x, filters[..., None], stride=strides, **arguments)


def drop_in(x, filters, strides=(1, 1)):
    return conv_general_dilated(x, filters, strides, "VALID", dimension_numbers=NUMBERS)


def theirs(x, filters, strides=(1, 1)):
    return lax.conv_general_dilated(x, filters, strides, "VALID", dimension_numbers=NUMBERS)


@pytest.fixture(params=[layer, drop_in], ids=lambda f: f.__name__)
def ours(request):
    return request.param


def value_and_gradients(convolve, strides=(1, 1)):
    """``y`` and both gradients of the sum of its sine."""

    def loss(x, filters):
        y = convolve(x, filters, strides)
        return jnp.sum(jnp.sin(y)), y

    return jax.value_and_grad(loss, (0, 1), has_aux=True)


def expected(x, filters, strides=(1, 1)):
    """The same in float64."""
    x, filters = np.asarray(x, np.float64), np.asarray(filters, np.float64)
    pixels = x[:, :: strides[0], :: strides[1]]
    y = np.einsum("bhwc,cf->bhwf", pixels, filters[0, 0])
    dx = np.zeros_like(x)
    dx[:, :: strides[0], :: strides[1]] = np.einsum("bhwf,cf->bhwc", np.cos(y), filters[0, 0])
    dw = np.einsum("bhwc,bhwf->cf", pixels, np.cos(y))
    return (np.sin(y).sum(), y), (dx, dw[None, None])


def assert_close(actual, desired):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), actual, desired
    )


@pytest.mark.parametrize("strides", [(1, 1), (3, 4)])
def test_no_convolution_is_left_to_xla_and_the_numbers_are_those_of_numpy(ours, strides):
    operands = arrays(*SHAPES)
    compiled = jax.jit(value_and_gradients(ours, strides)).lower(*operands)
    assert "convolution" not in compiled.as_text()
    assert_close(compiled.compile()(*operands), expected(*operands, strides))


def test_mapped_operands_are_right_too(ours):
    operands = [jnp.stack([array, array[::-1] / 2, -array]) for array in arrays(*SHAPES)]
    mapped = jax.jit(jax.vmap(value_and_gradients(ours))).lower(*operands)
    assert "convolution" not in mapped.as_text()
    actual = mapped.compile()(*operands)
    for i in range(3):
        one = jax.tree.map(lambda array, i=i: array[i], actual)
        assert_close(one, expected(*(operand[i] for operand in operands)))


def test_other_platforms_are_left_to_lax():
    x, weights = np.ones((2, 6, 5, 16)), np.ones((1, 1, 16, 24, 1))
    for platform in ("cuda", "rocm", "tpu"):
        told = explain(x, weights, platform=platform)
        assert {choice.implementation for choice in told.values()} == {"lax"}


@pytest.mark.parametrize(
    "specs",
    [
        (P(BOTH), P()),
        (P(None, "data"), P()),
        (P("data"), P(None, None, None, "model")),
        (P("data", None, None, "model"), P(None, None, "model")),
    ],
    ids=["batch", "height", "filters", "channels"],
)
def test_sharded_it_is_the_program_that_lax_makes(specs):
    mesh = make_mesh(AxisType.Auto)
    operands = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip(arrays(*SHAPES), specs, strict=True)
    ]
    own, other = (
        jax.jit(value_and_gradients(f)).lower(*operands).compile() for f in (layer, theirs)
    )
    assert collectives(own) == collectives(other)
    assert_close(own(*operands), expected(*arrays(*SHAPES)))


def test_sharded_an_implementation_asked_for_by_name_is_used():
    mesh = make_mesh(AxisType.Auto)
    operands = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip(arrays(*SHAPES), (P(BOTH), P()), strict=True)
    ]
    convolve = jax.jit(functools.partial(layer, implementation="blocks"))
    compiled = convolve.lower(*operands).compile()
    assert "convolution(" not in compiled.as_text()
    (_, desired), _ = expected(*arrays(*SHAPES))
    assert_close(compiled(*operands), desired)


def test_of_types_that_are_sharded_lax_makes_the_results(ours):
    with jax.set_mesh(make_mesh(AxisType.Explicit)):
        x, filters = arrays(*SHAPES)
        x = jax.device_put(x, P("data"))
        assert jax.typeof(ours(x, filters)) == jax.typeof(theirs(x, filters))
