"""What cannot be split is gathered, however it is asked for, and the numbers are right."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
)

from grouped_conv_jax.operation._description import Role

DEPTHWISE, _ = CASES["depthwise"]


@st.composite
def asked(draw):
    """A case, and partitions of its arrays."""

    def size(low, high):
        return draw(st.integers(low, high))

    stride, dilation, filter_size = size(1, 2), size(1, 2), size(1, 4)
    before, after = size(-1, 3), size(-1, 3)
    extent = (filter_size - 1) * dilation + 1
    image = draw(st.sampled_from([6, 8, 16]))
    if extent > image + before + after:
        before, after = extent, extent
    drawn = case(
        (image, 4),
        (filter_size, 2),
        size(1, 2),
        size(1, 2),
        draw(st.sampled_from([2, 3, 4, 8])),
        batch=draw(st.sampled_from([2, 6, 8])),
        stride=(stride, 1),
        dilation=(dilation, 1),
        pad=((before, after), (0, 1)),
    )
    specs = []
    for rank in 4, 4, 4:
        entries = [() for _ in range(rank)]
        for axis in draw(st.permutations(BOTH)):
            at = size(0, rank)
            if at < rank:
                entries[at] += (axis,)
        specs.append(P(*entries))
    return drawn, specs


@settings(max_examples=12, deadline=None, derandomize=True)
@given(asked())
def test_numbers_are_right(asked):
    case, specs = asked
    mesh = make_mesh(AxisType.Auto)

    def function(*arrays):
        # Constraints, unlike arguments, need not divide anything evenly.
        constrain = jax.lax.with_sharding_constraint
        shardings = [NamedSharding(mesh, spec) for spec in specs]
        x, filters, cotangent = map(constrain, arrays, shardings)
        y, pull = jax.vjp(functools.partial(convolve, convolution=case.convolution), x, filters)
        return tuple(map(constrain, (*pull(cotangent), y), shardings))

    results = jax.jit(function)(*operands(case).values())
    for role, result in zip(Role, results, strict=True):
        assert_close(result, expected(role, case))


def test_by_the_other_partitioner():
    x, kernel, _ = place(DEPTHWISE, make_mesh(AxisType.Auto), (P(BOTH), P(), P()))
    jax.config.update("jax_use_shardy_partitioner", False)
    try:
        function = jax.jit(lambda x: convolve(x, np.asarray(kernel), DEPTHWISE.convolution))
        compiled = function.lower(x).compile()
    finally:
        jax.config.update("jax_use_shardy_partitioner", True)
    assert collectives(compiled) == {}
    assert_close(compiled(x), expected(Role.FORWARD, DEPTHWISE))


def test_two_meshes_in_one_program():
    other = jax.make_mesh((8,), ("other",), (AxisType.Auto,))
    x, _, _ = place(DEPTHWISE, other, (P("other"), P(), P()))
    by_groups = P(None, None, None, "model")
    _, kernel, _ = place(DEPTHWISE, make_mesh(AxisType.Auto), (P(), by_groups, P()))
    cotangent = operands(DEPTHWISE)[Role.FORWARD]
    result = compute(Role.FORWARD, DEPTHWISE.convolution)(x, kernel, cotangent)
    assert_close(result, expected(Role.FORWARD, DEPTHWISE))


def test_a_mesh_of_two_primes_in_either_order():
    six = dataclasses.replace(DEPTHWISE, batch=6)
    for shape in (2, 3), (3, 2):
        mesh = jax.make_mesh(shape, BOTH, (AxisType.Auto,) * 2, devices=jax.devices()[:6])
        placed = place(six, mesh, (P("data"), P(), P("data")))
        compiled = compute(Role.FORWARD, six.convolution).lower(*placed).compile()
        assert collectives(compiled) == {}
        assert_close(compiled(*placed), expected(Role.FORWARD, six))


def test_within_shards_of_one_axis_only():
    x, kernel, _ = operands(DEPTHWISE).values()
    with jax.set_mesh(make_mesh(AxisType.Auto)):
        function = jax.jit(
            jax.shard_map(
                functools.partial(convolve, filters=kernel, convolution=DEPTHWISE.convolution),
                in_specs=P("data"),
                out_specs=P("data"),
                axis_names={"data"},
            )
        )
        result = function(jax.device_put(x, P(BOTH)))
    assert_close(result, expected(Role.FORWARD, DEPTHWISE))


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_exported_for_many_devices(mode):
    mesh = make_mesh(mode)
    with jax.set_mesh(mesh):
        x, kernel, _ = place(DEPTHWISE, mesh, (P(BOTH), P(), P()))
        function = jax.jit(functools.partial(convolve, convolution=DEPTHWISE.convolution))
        exported = jax.export.export(function, platforms=["cpu", "cuda", "tpu"])(x, kernel)
        again = jax.export.deserialize(exported.serialize())
        assert again.nr_devices == 8
        assert_close(jax.jit(again.call)(x, kernel), expected(Role.FORWARD, DEPTHWISE))
