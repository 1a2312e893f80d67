"""Every implementation computes every role as NumPy does, whatever the shape and the dtype."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_roles
from cases import COMPILED_QUICKLY
from implementation_cases import (
    CASES,
    LANE_TILES,
    LONG_SUMS,
    case,
    compile_roles,
    compute,
    computed,
    expected,
    operands,
    supported,
)
from sharding_cases import convolve

from grouped_conv_jax import explain, grouped_conv2d
from grouped_conv_jax.operation._description import Role
from grouped_conv_jax.operation.implementations import REGISTRY

FLOAT32 = np.finfo(np.float32)


@pytest.mark.parametrize(("implementation", "shapes"), supported(CASES))
def test_every_role_is_what_numpy_computes(implementation, shapes):
    with jax.enable_x64(True):
        results = computed(implementation, shapes, np.dtype(np.float64), COMPILED_QUICKLY)
    for role, result in results.items():
        np.testing.assert_allclose(
            result,
            expected(role, shapes, np.dtype(np.float64)),
            rtol=1e-12,
            atol=1e-12,
            err_msg=role.name,
        )


@pytest.mark.parametrize("name", LONG_SUMS)
def test_float32_errors_of_what_is_chosen_are_at_most_twice_those_of_lax(name):
    shapes, dtype = LONG_SUMS[name], np.dtype(np.float32)
    chosen, reference = computed(None, shapes, dtype), computed("lax", shapes, dtype)
    for role in Role:
        exact = expected(role, shapes, dtype)
        error, allowed = (
            np.sqrt(np.mean((results[role] - exact) ** 2)) for results in (chosen, reference)
        )
        assert error <= 2 * allowed, role.name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("implementation", "shapes"), supported(LONG_SUMS))
def test_16_bit_operands_are_summed_in_float32(implementation, shapes, dtype):
    dtype = np.dtype(getattr(jnp, dtype))
    x_shape, filter_shape, convolution = shapes
    terms = {
        Role.FORWARD: np.prod(filter_shape[:-1]),
        Role.INPUT_GRADIENT: np.prod(filter_shape[:-2]) * filter_shape[-1] // convolution.groups,
        Role.FILTER_GRADIENT: x_shape[0] * np.prod(convolution.outputs),
    }
    for role, result in computed(implementation, shapes, dtype, COMPILED_QUICKLY).items():
        assert result.dtype == dtype
        exact = expected(role, shapes, dtype)
        # The sum is rounded once to 16 bits, each of its terms to 32.
        rounding = float(jnp.finfo(dtype).eps) / 2 * np.abs(exact)
        summing = terms[role] * FLOAT32.eps * expected(role, shapes, dtype, magnitude=True)
        error = np.abs(result.astype(np.float64) - exact)
        assert (error <= rounding + summing).all(), role.name


@pytest.mark.parametrize(("implementation", "shapes"), supported(LONG_SUMS))
def test_results_are_the_same_bits_from_run_to_run_and_compilation_to_compilation(
    implementation, shapes
):
    dtype = np.dtype(np.float32)
    program, arguments = compile_roles(implementation, shapes, dtype)
    again, _ = compile_roles(implementation, shapes, dtype)
    first = program(arguments)
    for repeated in (program(arguments), again(arguments)):
        jax.tree.map(np.testing.assert_array_equal, repeated, first)


@pytest.mark.parametrize(
    "name",
    ["depthwise", "strided", "cropped, many channels", "1-D, many channels", "3-D, many channels"],
)
def test_filter_gradients_of_every_sample_are_what_numpy_computes(name):
    x_shape, filter_shape, convolution = CASES[name]
    x, y = (operands((x_shape, filter_shape, convolution), np.float32)[i] for i in (0, 2))
    filters = jax.ShapeDtypeStruct(filter_shape, np.float32)

    def of_sample(x, y):
        forward = functools.partial(convolve, x[None], convolution=convolution)
        return jax.linear_transpose(forward, filters)(y[None])[0]

    one_by_one = [
        reference_roles.filter_gradient(image[None], cotangent[None], convolution)
        for image, cotangent in zip(x, y, strict=True)
    ]
    gradients = jax.jit(jax.vmap(of_sample))(x, y)
    np.testing.assert_allclose(gradients, one_by_one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("role", Role)
def test_sums_over_the_taps_of_large_filters_make_no_larger_programs(role):
    def size(filter_size):
        shapes = case((60, 60), (filter_size, filter_size), 1, 1, 4, pad=filter_size // 2)
        arrays = [operands(shapes, np.float32)[operand] for operand in role.operands]
        function = functools.partial(compute, role, convolution=shapes[-1], implementation="taps")
        return len(jax.jit(function).lower(*arrays).as_text())

    assert size(61) < 4 * size(31) < 8 * size(5)


@pytest.mark.parametrize("role", Role)
def test_groups_do_not_mix_in_sums_over_taps(role):
    shapes = case((6, 5), (3, 2), 2, 2, 3, stride=2, pad=1)
    lhs, rhs = (operands(shapes, np.float64)[operand].copy() for operand in role.operands)
    lhs[..., 0] = np.inf
    with jax.enable_x64(True):
        result = compute(role, jnp.asarray(lhs), jnp.asarray(rhs), shapes[-1], "taps")
    # Without an infinity the other groups' results are finite.
    width = result.shape[-1] // 3
    assert not np.isfinite(result[..., :width]).all()
    assert np.isfinite(result[..., width:]).all()


@pytest.mark.parametrize("role", Role)
def test_groups_mix_only_within_a_lane_tile_and_not_in_filter_gradients(role):
    shapes = case((4, 3), (3, 3), 64, 64, 4, pad=1)
    lhs, rhs = (operands(shapes, np.float32)[operand].copy() for operand in role.operands)
    lhs[..., 0] = np.inf
    result = compute(role, jnp.asarray(lhs), jnp.asarray(rhs), shapes[-1], LANE_TILES)
    alone = 1 if role == Role.FILTER_GRADIENT else 2
    width = result.shape[-1] // 4
    assert not np.isfinite(result[..., :width]).all()
    assert np.isfinite(result[..., alone * width :]).all()


def test_an_implementation_that_cannot_says_why_while_tracing():
    x = jax.ShapeDtypeStruct((1, 5, 5, 16), jnp.float32)
    weights = jax.ShapeDtypeStruct((3, 3, 8, 8, 2), jnp.float32)
    taps = functools.partial(grouped_conv2d, implementation="taps")
    message = r"implementation='taps' cannot: .* channels times filters per group, got 8 \* 8"
    with pytest.raises(NotImplementedError, match=message):
        jax.eval_shape(taps, x, weights)


def test_an_implementation_given_by_name_is_not_replaced_for_one_group():
    x = jax.ShapeDtypeStruct((1, 5, 5, 8), jnp.float32)
    weights = jax.ShapeDtypeStruct((3, 3, 8, 8, 1), jnp.float32)
    with pytest.raises(NotImplementedError, match="implementation='taps' cannot"):
        jax.eval_shape(functools.partial(grouped_conv2d, implementation="taps"), x, weights)
    told = explain(x, weights, implementation="blocks")
    assert set(told.values()) == {("blocks", "asked for by name")}


def test_an_unknown_implementation_names_those_there_are():
    x, weights = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 1, 2))
    listed = ", ".join(map(repr, REGISTRY))
    with pytest.raises(ValueError, match=f"implementation must be one of {listed} or None"):
        grouped_conv2d(x, weights, implementation="tap")
