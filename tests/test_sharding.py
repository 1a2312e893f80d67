"""Sharded over devices, shards are computed where they are, and the numbers are one device's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from sharding_cases import (
    BOTH,
    CASES,
    MODES,
    arrays,
    assert_close,
    collectives,
    compute,
    convolve,
    expected,
    make_mesh,
    same,
)

from grouped_conv_jax.operation._description import Convolution, Role


@pytest.fixture(params=MODES, ids=lambda mode: mode.name)
def mesh(request):
    """All eight devices, every axis in the same mode."""
    mesh = make_mesh(request.param)
    with jax.set_mesh(mesh):
        yield mesh


def test_a_gather_would_be_seen():
    mesh = make_mesh(AxisType.Auto)
    x = jax.device_put(jnp.ones((8, 8)), NamedSharding(mesh, P(BOTH)))
    gather = jax.jit(lambda x: 2 * x, out_shardings=NamedSharding(mesh, P()))
    assert collectives(gather.lower(x).compile()) == {"all-gather": 1}


# Images, filters, and the axis of images that is sharded.
SHARDINGS = {
    "batch": (P(BOTH), P()),
    "groups": (P(None, None, None, BOTH), P(None, None, None, BOTH)),
    "batch and groups": (P("data", None, None, "model"), P(None, None, None, "model")),
    "height": (P(None, BOTH), P()),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("role", Role, ids=lambda role: role.name.lower())
def test_shards_are_computed_where_they_are(mesh, role, sharding, name):
    convolution, channels, filters, neighbours = CASES[name]
    images, kernels = SHARDINGS[sharding]
    specs = {role: kernels if role == Role.FILTER_GRADIENT else images for role in Role}
    values = arrays(convolution, 8, channels, filters)
    operands = [jax.device_put(values[r], NamedSharding(mesh, specs[r])) for r in Role]
    compiled = compute(role, convolution).lower(*operands).compile()
    allowed = {}
    if "height" in sharding:
        allowed["collective-permute"] = neighbours
    if role == Role.FILTER_GRADIENT and sharding != "groups":
        allowed["all-reduce"] = 1
    assert collectives(compiled) == allowed
    result = compiled(*operands)
    assert result.sharding.is_equivalent_to(NamedSharding(mesh, specs[role]), result.ndim)
    assert_close(result, expected(role, convolution, values))


@pytest.mark.parametrize("role", Role, ids=lambda role: role.name.lower())
def test_halos_of_two_axes_meet_in_the_corners(mesh, role):
    convolution = Convolution(
        (8, 8, 3), (3, 3, 2), 2, (1, 2, 1), ((1, 1), (0, 1), (0, 1)), (1,) * 3
    )
    values = arrays(convolution, 2, 2, 3)
    specs = [P(None, "data", "model"), P(), P(None, "data", "model")]
    operands = [
        jax.device_put(values[r], NamedSharding(mesh, spec))
        for r, spec in zip(Role, specs, strict=True)
    ]
    compiled = compute(role, convolution).lower(*operands).compile()
    reduced = {"all-reduce": 1} if role == Role.FILTER_GRADIENT else {}
    assert collectives(compiled) == {"collective-permute": 3} | reduced
    assert_close(compiled(*operands), expected(role, convolution, values))


@pytest.mark.parametrize("role", Role, ids=lambda role: role.name.lower())
@pytest.mark.parametrize("padding", [(-2, 2), (3, -3), (-1, 3), (4, 0), (2, 2)])
@pytest.mark.parametrize("extent", [(1, 1), (3, 1), (3, 2), (5, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_any_padding_of_a_sharded_axis(role, padding, extent, stride):
    filter_size, dilation = extent
    convolution = Convolution((16,), (filter_size,), 2, (stride,), (padding,), (dilation,))
    values = arrays(convolution, 1, 1, 2)
    mesh = jax.make_mesh((4,), ("rows",), (AxisType.Auto,), devices=jax.devices()[:4])
    specs = [P(None, "rows"), P(), P(None, "rows" if convolution.outputs[0] % 4 == 0 else None)]
    operands = [
        jax.device_put(values[r], NamedSharding(mesh, spec))
        for r, spec in zip(Role, specs, strict=True)
    ]
    result = compute(role, convolution)(*operands)
    assert_close(result, expected(role, convolution, values))


def test_gradients_of_each_example_stay_where_the_example_is(mesh):
    convolution, channels, filters, _ = CASES["many channels and filters"]
    values = arrays(convolution, 8, channels, filters)
    x = jax.device_put(values[Role.INPUT_GRADIENT], NamedSharding(mesh, P(BOTH)))
    kernel = jax.device_put(values[Role.FILTER_GRADIENT], NamedSharding(mesh, P()))

    def loss(kernel, x):
        return jnp.sum(jnp.sin(convolve(x[None], kernel, convolution)))

    gradients = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))
    compiled = gradients.lower(kernel, x).compile()
    assert collectives(compiled) == {}
    assert_close(compiled(kernel, x), gradients(*map(np.asarray, (kernel, x))))


def test_a_mapped_axis_and_the_batch_are_sharded_on_their_own(mesh):
    convolution, channels, filters, _ = CASES["depthwise"]
    x, kernel, _ = arrays(convolution, 4, channels, filters).values()
    stacked = np.stack([x, -x])
    sharded = jax.device_put(stacked, NamedSharding(mesh, P("data", "model")))
    function = jax.jit(
        jax.vmap(functools.partial(convolve, filters=kernel, convolution=convolution))
    )
    compiled = function.lower(sharded).compile()
    assert collectives(compiled) == {}
    y = expected(Role.FORWARD, convolution, {Role.INPUT_GRADIENT: x, Role.FILTER_GRADIENT: kernel})
    assert_close(compiled(sharded), np.stack([y, -y]))


def test_a_gradient_in_16_bits_is_summed_over_the_devices_in_32():
    convolution = same(image=(16, 16))
    values = arrays(convolution, 64, 1, 1)
    narrow = {role: jnp.asarray(value, jnp.bfloat16) for role, value in values.items()}
    mesh = make_mesh(AxisType.Auto)
    operands = [
        jax.device_put(narrow[r], NamedSharding(mesh, spec))
        for r, spec in zip(Role, (P(BOTH), P(), P(BOTH)), strict=True)
    ]
    compiled = compute(Role.FILTER_GRADIENT, convolution).lower(*operands).compile()
    actual = compiled(*operands)
    assert actual.dtype == jnp.bfloat16
    desired = expected(Role.FILTER_GRADIENT, convolution, narrow)
    # Rounded once, and sums of 2**14 terms in float32 before that.
    np.testing.assert_allclose(
        actual.astype(np.float32), desired, rtol=2.0**-8, atol=1e-6 * np.abs(desired).max()
    )
