"""Sharded over devices, shards are computed where they are, and the numbers are one device's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from implementation_cases import case, expected, operands
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from sharding_cases import (
    BOTH,
    CASES,
    MODES,
    assert_close,
    collectives,
    compute,
    convolve,
    make_mesh,
    place,
    same,
)

from grouped_conv_jax.operation._description import Role


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


every_role = pytest.mark.parametrize("role", Role, ids=lambda role: role.name.lower())


# Rows meet their neighbours, whose number depends on the case; the rest is alike for all.
@pytest.mark.parametrize(
    ("mode", "sharding", "name"),
    [
        *((AxisType.Auto, "height", name) for name in CASES),
        *((AxisType.Auto, sharding, "many channels and filters") for sharding in SHARDINGS),
        *((AxisType.Explicit, sharding, "depthwise") for sharding in SHARDINGS),
        (AxisType.Auto, "batch and groups", "two filters a channel"),
    ],
)
@every_role
def test_shards_are_computed_where_they_are(role, mode, sharding, name):
    case, neighbours = CASES[name]
    images, kernels = SHARDINGS[sharding]
    specs = images, kernels, images
    mesh = make_mesh(mode)
    with jax.set_mesh(mesh):
        placed = place(case, mesh, specs)
        compiled = compute(role, case.convolution).lower(*placed).compile()
        allowed = {}
        if "height" in sharding:
            allowed["collective-permute"] = neighbours
        if role == Role.FILTER_GRADIENT and sharding != "groups":
            allowed["all-reduce"] = 1
        assert collectives(compiled) == allowed
        result = compiled(*placed)
    assert result.sharding.is_equivalent_to(NamedSharding(mesh, specs[role]), result.ndim)
    assert_close(result, expected(role, case))


@every_role
def test_halos_of_two_axes_meet_in_the_corners(role):
    padding = ((1, 1), (0, 1), (0, 1))
    volumes = case((8, 8, 3), (3, 3, 2), 2, 3, 2, stride=(1, 2, 1), pad=padding)
    images = P(None, "data", "model")
    placed = place(volumes, make_mesh(AxisType.Auto), (images, P(), images))
    compiled = compute(role, volumes.convolution).lower(*placed).compile()
    reduced = {"all-reduce": 1} if role == Role.FILTER_GRADIENT else {}
    assert collectives(compiled) == {"collective-permute": 3} | reduced
    assert_close(compiled(*placed), expected(role, volumes))


@pytest.mark.parametrize("padding", [(-2, 2), (3, -3), (-1, 3), (4, 0), (2, 2)])
@pytest.mark.parametrize("extent", [(1, 1), (3, 1), (3, 2), (5, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_any_padding_of_a_sharded_axis(padding, extent, stride):
    size, dilation = extent
    rows = case((16,), (size,), 1, 2, 2, batch=1, stride=stride, dilation=dilation, pad=(padding,))
    mesh = jax.make_mesh((4,), ("rows",), (AxisType.Auto,), devices=jax.devices()[:4])
    outputs = P(None, "rows" if rows.convolution.outputs[0] % 4 == 0 else None)
    placed = place(rows, mesh, (P(None, "rows"), P(), outputs))
    convolve_rows = functools.partial(convolve, convolution=rows.convolution)

    @jax.jit
    def every_result(x, filters, cotangent):
        y, pull = jax.vjp(convolve_rows, x, filters)
        return *pull(cotangent), y

    for role, result in zip(Role, every_result(*placed), strict=True):
        assert_close(result, expected(role, rows))


def test_gradients_of_each_example_stay_where_the_example_is(mesh):
    case, _ = CASES["many channels and filters"]
    x, kernel, _ = place(case, mesh, (P(BOTH), P(), P()))

    def loss(kernel, x):
        return jnp.sum(jnp.sin(convolve(x[None], kernel, case.convolution)))

    gradients = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))
    compiled = gradients.lower(kernel, x).compile()
    assert collectives(compiled) == {}
    assert_close(compiled(kernel, x), gradients(*map(np.asarray, (kernel, x))))


def test_a_mapped_axis_and_the_batch_are_sharded_on_their_own(mesh):
    case, _ = CASES["depthwise"]
    x, kernel, _ = operands(case).values()
    sharded = jax.device_put(np.stack([x, -x]), NamedSharding(mesh, P("data", "model")))
    function = jax.jit(
        jax.vmap(functools.partial(convolve, filters=kernel, convolution=case.convolution))
    )
    compiled = function.lower(sharded).compile()
    assert collectives(compiled) == {}
    y = expected(Role.FORWARD, case)
    assert_close(compiled(sharded), np.stack([y, -y]))


def test_a_gradient_in_16_bits_is_summed_over_the_devices_in_32():
    case = same(image=(16, 16), batch=64)
    narrow = operands(case, jnp.bfloat16).values()
    placed = [
        jax.device_put(array, NamedSharding(make_mesh(AxisType.Auto), spec))
        for array, spec in zip(narrow, (P(BOTH), P(), P(BOTH)), strict=True)
    ]
    actual = compute(Role.FILTER_GRADIENT, case.convolution)(*placed)
    assert actual.dtype == jnp.bfloat16
    desired = expected(Role.FILTER_GRADIENT, case, jnp.bfloat16)
    # Rounded once, and sums of 2**14 terms in float32 before that.
    np.testing.assert_allclose(
        actual.astype(np.float32), desired, rtol=2.0**-8, atol=1e-6 * np.abs(desired).max()
    )
