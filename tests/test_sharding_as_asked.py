"""What cannot be split is gathered, however it is asked for, and the numbers are right."""

import functools

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
)

from grouped_conv_jax.operation._description import Convolution, Role


@st.composite
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
def test_numbers_are_right(asked):
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


def test_by_the_other_partitioner():
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


def test_two_meshes_in_one_program():
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


def test_a_mesh_of_two_primes_in_either_order():
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


def test_within_shards_of_one_axis_only():
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


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_exported_for_many_devices(mode):
    mesh = make_mesh(mode)
    with jax.set_mesh(mesh):
        convolution, channels, filters, _ = CASES["depthwise"]
        values = arrays(convolution, 8, channels, filters)
        x = jax.device_put(values[Role.INPUT_GRADIENT], NamedSharding(mesh, P(BOTH)))
        kernel = jax.device_put(values[Role.FILTER_GRADIENT], NamedSharding(mesh, P()))
        function = jax.jit(functools.partial(convolve, convolution=convolution))
        exported = jax.export.export(function, platforms=["cpu", "cuda", "tpu"])(x, kernel)
        again = jax.export.deserialize(exported.serialize())
        assert again.nr_devices == 8
        assert_close(jax.jit(again.call)(x, kernel), expected(Role.FORWARD, convolution, values))
