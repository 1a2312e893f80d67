"""Sharded over devices, shards are computed where they are, and the numbers are one device's."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_roles
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from grouped_conv_jax import conv_general_dilated
from grouped_conv_jax._convolution import Convolution, Role

COLLECTIVES = "all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter"
BOTH = ("data", "model")
MODES = (AxisType.Auto, AxisType.Explicit)


def make_mesh(mode):
    return jax.make_mesh((2, 4), BOTH, (mode, mode))


@pytest.fixture(params=MODES, ids=lambda mode: mode.name)
def mesh(request):
    """All eight devices, every axis in the same mode."""
    mesh = make_mesh(request.param)
    with jax.set_mesh(mesh):
        yield mesh


def collectives(compiled):
    """How many collectives of each kind a compiled program has."""
    found = re.findall(rf" ({COLLECTIVES})(?:-start)?\(", compiled.as_text())
    return {kind: found.count(kind) for kind in found}


def test_a_gather_would_be_seen():
    mesh = make_mesh(AxisType.Auto)
    x = jax.device_put(jnp.ones((8, 8)), NamedSharding(mesh, P(BOTH)))
    gather = jax.jit(lambda x: 2 * x, out_shardings=NamedSharding(mesh, P()))
    assert collectives(gather.lower(x).compile()) == {"all-gather": 1}


def convolve(x, filters, convolution):
    """The forward pass through the public function, in canonical order."""
    digits = "".join(map(str, range(len(convolution.image))))
    return conv_general_dilated(
        x,
        filters,
        convolution.strides,
        convolution.padding,
        rhs_dilation=convolution.dilation,
        dimension_numbers=(f"N{digits}C", f"{digits}IO", f"N{digits}C"),
        feature_group_count=convolution.groups,
    )


def arrays(convolution, batch, channels, filters):
    """``x``, filters and the output's cotangent, in the order of their roles."""
    random = np.random.default_rng(0)
    kernel = *convolution.filter_size, channels, filters * convolution.groups
    shapes = {
        Role.INPUT_GRADIENT: (batch, *convolution.image, channels * convolution.groups),
        Role.FILTER_GRADIENT: kernel,
        Role.FORWARD: (batch, *convolution.outputs, kernel[-1]),
    }
    return {
        role: random.standard_normal(shape).astype(np.float32) for role, shape in shapes.items()
    }


def compute(role, convolution):
    """Computes one role; of the other two nothing is left."""

    def function(x, filters, cotangent):
        y, pull = jax.vjp(functools.partial(convolve, convolution=convolution), x, filters)
        return (*pull(cotangent), y)[role]

    return jax.jit(function)


def expected(role, convolution, values):
    """What NumPy makes of it in float64."""
    operands = [values[operand] for operand in role.operands]
    return getattr(reference_roles, role.name.lower())(*operands, convolution)


def assert_close(actual, desired):
    np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5 * np.abs(desired).max())


def same(filter_size=(3, 3), strides=(1, 1), dilation=(1, 1), image=(16, 4), groups=8):
    """A convolution with as many outputs as pixels, over the stride."""
    sides = []
    for k, s, d in zip(filter_size, strides, dilation, strict=True):
        total = (k - 1) * d + 1 - s
        sides.append((total // 2, total - total // 2))
    return Convolution(image, filter_size, groups, strides, tuple(sides), dilation)


# The description, channels and filters per group, and how many neighbours a shard of rows needs.
CASES = {
    "depthwise": (same(), 1, 1, 2),
    "strided": (same(strides=(2, 1)), 1, 1, 1),
    "dilated": (same(dilation=(2, 1)), 1, 1, 2),
    "many channels and filters": (same(), 8, 8, 2),
    "two filters a channel": (same(), 1, 2, 2),
}
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


class TestWhateverIsAskedFor:
    """What cannot be split is gathered, and the numbers are right."""

    @st.composite
    @staticmethod
    def asked(draw):
        """A convolution, its sizes, and partitions of its arrays."""

        def size(low, high):
            return draw(st.integers(low, high))

        stride, dilation, filter_size = size(1, 2), size(1, 2), size(1, 4)
        before, after = size(-1, 3), size(-1, 3)
        extent = (filter_size - 1) * dilation + 1
        image = draw(st.sampled_from([6, 8, 16]))
        if extent > image + before + after:
            before, after = extent, extent
        convolution = Convolution(
            (image, 4),
            (filter_size, 2),
            draw(st.sampled_from([2, 3, 4, 8])),
            (stride, 1),
            ((before, after), (0, 1)),
            (dilation, 1),
        )
        sizes = draw(st.sampled_from([2, 6, 8])), size(1, 2), size(1, 2)
        specs = []
        for rank in 4, 4, 4:
            entries = [() for _ in range(rank)]
            for axis in draw(st.permutations(BOTH)):
                at = size(0, rank)
                if at < rank:
                    entries[at] += (axis,)
            specs.append(P(*entries))
        return convolution, sizes, specs

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(asked())
    def test_numbers_are_right(self, asked):
        convolution, sizes, specs = asked
        values = arrays(convolution, *sizes)
        mesh = make_mesh(AxisType.Auto)

        def function(*operands):
            # Constraints, unlike arguments, need not divide anything evenly.
            constrain = jax.lax.with_sharding_constraint
            shardings = [NamedSharding(mesh, spec) for spec in specs]
            x, filters, cotangent = map(constrain, operands, shardings)
            y, pull = jax.vjp(functools.partial(convolve, convolution=convolution), x, filters)
            return tuple(map(constrain, (*pull(cotangent), y), shardings))

        results = jax.jit(function)(*values.values())
        for role, result in zip(Role, results, strict=True):
            assert_close(result, expected(role, convolution, values))

    def test_by_the_other_partitioner(self):
        convolution, channels, filters, _ = CASES["depthwise"]
        values = arrays(convolution, 8, channels, filters)
        mesh = make_mesh(AxisType.Auto)
        x = jax.device_put(values[Role.INPUT_GRADIENT], NamedSharding(mesh, P(BOTH)))
        kernel = values[Role.FILTER_GRADIENT]
        jax.config.update("jax_use_shardy_partitioner", False)
        try:
            function = jax.jit(lambda x: convolve(x, kernel, convolution))
            compiled = function.lower(x).compile()
        finally:
            jax.config.update("jax_use_shardy_partitioner", True)
        assert collectives(compiled) == {}
        assert_close(compiled(x), expected(Role.FORWARD, convolution, values))

    def test_two_meshes_in_one_program(self):
        convolution, channels, filters, _ = CASES["depthwise"]
        values = arrays(convolution, 8, channels, filters)
        other = jax.make_mesh((8,), ("other",), (AxisType.Auto,))
        x = jax.device_put(values[Role.INPUT_GRADIENT], NamedSharding(other, P("other")))
        kernel = jax.device_put(
            values[Role.FILTER_GRADIENT],
            NamedSharding(make_mesh(AxisType.Auto), P(None, None, None, "model")),
        )
        result = compute(Role.FORWARD, convolution)(x, kernel, values[Role.FORWARD])
        assert_close(result, expected(Role.FORWARD, convolution, values))

    def test_a_mesh_of_two_primes_in_either_order(self):
        convolution, channels, filters, _ = CASES["depthwise"]
        values = arrays(convolution, 6, channels, filters)
        for shape in (2, 3), (3, 2):
            mesh = jax.make_mesh(shape, BOTH, (AxisType.Auto,) * 2, devices=jax.devices()[:6])
            x = jax.device_put(values[Role.INPUT_GRADIENT], NamedSharding(mesh, P("data")))
            compiled = (
                jax.jit(convolve, static_argnums=2)
                .lower(x, values[Role.FILTER_GRADIENT], convolution)
                .compile()
            )
            assert collectives(compiled) == {}
            result = compiled(x, values[Role.FILTER_GRADIENT])
            assert_close(result, expected(Role.FORWARD, convolution, values))

    def test_within_shards_of_one_axis_only(self):
        convolution, channels, filters, _ = CASES["depthwise"]
        x, kernel, _ = arrays(convolution, 8, channels, filters).values()
        with jax.set_mesh(make_mesh(AxisType.Auto)):
            function = jax.jit(
                jax.shard_map(
                    functools.partial(convolve, filters=kernel, convolution=convolution),
                    in_specs=P("data"),
                    out_specs=P("data"),
                    axis_names={"data"},
                )
            )
            result = function(jax.device_put(x, P(BOTH)))
        values = {Role.INPUT_GRADIENT: x, Role.FILTER_GRADIENT: kernel}
        assert_close(result, expected(Role.FORWARD, convolution, values))

    def test_exported_for_many_devices(self, mesh):
        convolution, channels, filters, _ = CASES["depthwise"]
        values = arrays(convolution, 8, channels, filters)
        x = jax.device_put(values[Role.INPUT_GRADIENT], NamedSharding(mesh, P(BOTH)))
        kernel = jax.device_put(values[Role.FILTER_GRADIENT], NamedSharding(mesh, P()))
        function = jax.jit(functools.partial(convolve, convolution=convolution))
        exported = jax.export.export(function, platforms=["cpu", "cuda", "tpu"])(x, kernel)
        again = jax.export.deserialize(exported.serialize())
        assert again.nr_devices == 8
        assert_close(jax.jit(again.call)(x, kernel), expected(Role.FORWARD, convolution, values))
