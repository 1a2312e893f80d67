"""Every implementation computes every role as NumPy does, whatever the shape and the dtype."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import COMPILED_QUICKLY
from implementation_cases import (
    CASES,
    FORMS,
    LANE_TILES,
    LONG_SUMS,
    ZEROS,
    case,
    compute,
    computed,
    expected,
    lower_roles,
    operands,
    roles,
)
from sharding_cases import convolve

from grouped_conv_jax import explain, grouped_conv2d
from grouped_conv_jax.benchmarks import reference
from grouped_conv_jax.operation._description import Role
from grouped_conv_jax.operation.implementations import REGISTRY

FLOAT32 = np.finfo(np.float32)


def test_every_implementation_has_a_form_with_cases():
    assert {implementation for implementation, _ in FORMS} == {*REGISTRY, LANE_TILES}
    assert all(names for _, names in FORMS.values())


@pytest.mark.parametrize(
    ("form", "name"),
    [(form, name) for form, (_, names) in FORMS.items() for name in names],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_every_role_is_what_numpy_computes_in_the_form_it_is_meant_to_reach(form, name):
    (implementation, _), (operations, _), dtype = form, FORMS[form], np.dtype(np.float64)
    with jax.enable_x64(True):
        lowered, arguments = lower_roles(implementation, CASES[name], dtype)
        results = lowered.compile(COMPILED_QUICKLY)(arguments)
    program = lowered.as_text()
    found = {op for op in ("while", "convolution", "dot_general") if f"stablehlo.{op}" in program}
    assert found == operations
    calls = program.count("custom_call @grouped_conv")
    assert calls == (len(Role) if implementation == "native" and name not in ZEROS else 0)
    assert list(results) == list(Role)
    for role, result in results.items():
        desired = expected(role, CASES[name], dtype)
        np.testing.assert_allclose(result, desired, rtol=1e-12, atol=1e-12, err_msg=role.name)


@pytest.mark.parametrize("name", LONG_SUMS)
def test_float32_errors_of_what_is_chosen_are_at_most_twice_those_of_lax(name):
    case, dtype = LONG_SUMS[name], np.dtype(np.float32)
    ours, theirs = computed(None, case, dtype), computed("lax", case, dtype)
    for role in Role:
        exact = expected(role, case, dtype)
        error, allowed = (
            np.sqrt(np.mean((results[role] - exact) ** 2)) for results in (ours, theirs)
        )
        assert error <= 2 * allowed, role.name


@pytest.mark.parametrize(
    ("implementation", "name", "dtype"),
    [
        *(("native", name, dtype) for name in LONG_SUMS for dtype in ("bfloat16", "float16")),
        *(("taps", name, "bfloat16") for name in LONG_SUMS if roles("taps", LONG_SUMS[name])),
        *(("blocks", name, "float16") for name in ("many channels per group", "1x1")),
        *((name, "few channels per group", "bfloat16") for name in ("lax", LANE_TILES)),
    ],
)
def test_16_bit_operands_are_summed_in_float32(implementation, name, dtype):
    case, dtype = LONG_SUMS[name], np.dtype(getattr(jnp, dtype))
    for role, result in computed(implementation, case, dtype, COMPILED_QUICKLY).items():
        assert result.dtype == dtype
        exact = expected(role, case, dtype)
        # The sum is rounded once to 16 bits, each of its terms to 32.
        rounding = float(jnp.finfo(dtype).eps) / 2 * np.abs(exact)
        summing = case.terms(role) * FLOAT32.eps * expected(role, case, dtype, magnitude=True)
        error = np.abs(result.astype(np.float64) - exact)
        assert (error <= rounding + summing).all(), role.name


@pytest.mark.parametrize("name", LONG_SUMS)
def test_results_are_the_same_bits_from_run_to_run_and_compilation_to_compilation(name):
    lowered, arguments = lower_roles("native", LONG_SUMS[name], np.dtype(np.float32))
    program, again = lowered.compile(), lowered.compile()
    first = program(arguments)
    for repeated in (program(arguments), again(arguments)):
        jax.tree.map(np.testing.assert_array_equal, repeated, first)


@pytest.mark.parametrize(
    "name",
    ["depthwise", "strided", "cropped, many channels", "1-D, many channels", "3-D, many channels"],
)
def test_filter_gradients_of_every_sample_are_what_numpy_computes(name):
    case = CASES[name]
    x, filters, y = operands(case, np.float32).values()

    def of_sample(x, y):
        forward = functools.partial(convolve, x[None], convolution=case.convolution)
        return jax.linear_transpose(forward, filters)(y[None])[0]

    one_by_one = [
        reference.compute(Role.FILTER_GRADIENT, image[None], cotangent[None], case.convolution)
        for image, cotangent in zip(x, y, strict=True)
    ]
    gradients = jax.jit(jax.vmap(of_sample))(x, y)
    np.testing.assert_allclose(gradients, one_by_one, rtol=1e-5, atol=1e-5)


def test_sums_over_the_taps_of_large_filters_make_no_larger_programs():
    def size(filter_size):
        large = case((60, 60), (filter_size, filter_size), 1, 1, 4, pad=filter_size // 2)
        lowered, _ = lower_roles("taps", large, np.float32)
        return len(lowered.as_text())

    assert size(61) < 4 * size(31) < 8 * size(5)


@pytest.mark.parametrize("role", Role)
def test_groups_do_not_mix_in_sums_over_taps(role):
    narrow = case((6, 5), (3, 2), 2, 2, 3, stride=2, pad=1)
    lhs, rhs = (operands(narrow, np.float64)[operand].copy() for operand in role.operands)
    lhs[..., 0] = np.inf
    with jax.enable_x64(True):
        result = compute(role, jnp.asarray(lhs), jnp.asarray(rhs), narrow.convolution, "taps")
    # Without an infinity the other groups' results are finite.
    width = result.shape[-1] // 3
    assert not np.isfinite(result[..., :width]).all()
    assert np.isfinite(result[..., width:]).all()


@pytest.mark.parametrize("role", Role)
def test_groups_mix_only_within_a_lane_tile_and_not_in_filter_gradients(role):
    wide = case((4, 3), (3, 3), 64, 64, 4, pad=1)
    lhs, rhs = (operands(wide, np.float32)[operand].copy() for operand in role.operands)
    lhs[..., 0] = np.inf
    result = compute(role, jnp.asarray(lhs), jnp.asarray(rhs), wide.convolution, LANE_TILES)
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
