"""Differentiation in both modes, and the other transformations of JAX."""

import dataclasses
import functools

import cases
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from jax.test_util import check_grads

from grouped_conv_jax import grouped_conv2d


def random(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def arrays(x_shape, weights_shape, dtype=np.float32):
    """Input, weights and bias."""
    bias_shape = (1, 1, *weights_shape[3:])
    shapes = (x_shape, weights_shape, bias_shape)
    return tuple(random(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(case=cases.convolutions(use_bias=True))
def test_tangents_of_any_convolution_are_the_loops_and_cotangents_their_adjoint(case):
    # The loop is linear in the input (padding with a number apart), and in weights and bias
    # together; along a random direction the scalar product pins all of a cotangent.
    primals = x, weights, _ = case.arrays("float64")
    directions = dataclasses.replace(case, seed=case.seed + 1).arrays("float64")
    fill = case.padding_value if isinstance(case.padding_value, str) else 0
    by_x = reference.grouped_conv(
        directions[0], weights, **case.long_form | {"padding_value": fill}
    )
    by_weights = reference.grouped_conv(x, directions[1], **case.long_form)
    by_bias = reference.grouped_conv(0 * x, 0 * weights, directions[2], **case.long_form)
    cotangent = np.random.default_rng(case.seed + 2).standard_normal(by_x.shape)

    @functools.partial(jax.jit, compiler_options=cases.COMPILED_QUICKLY)
    def differentiate(primals, directions, cotangent):
        convolve = functools.partial(grouped_conv2d, **case.spelled)
        _, tangent = jax.jvp(convolve, primals, directions)
        return tangent, jax.vjp(convolve, *primals)[1](cotangent)

    with jax.enable_x64(True):
        tangent, cotangents = differentiate(primals, directions, cotangent)
    np.testing.assert_allclose(tangent, by_x + by_weights + by_bias, rtol=1e-11, atol=1e-11)
    for i, along in enumerate((by_x, by_weights, by_bias)):
        assert cotangents[i].shape == primals[i].shape
        np.testing.assert_allclose(
            np.vdot(cotangents[i], directions[i]), np.vdot(cotangent, along), rtol=1e-11, atol=1e-11
        )


@pytest.mark.slow
@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(case=cases.convolutions(use_bias=True))
def test_both_modes_agree_with_finite_differences_for_any_convolution(case):
    convolve = functools.partial(grouped_conv2d, **case.spelled)
    with jax.enable_x64(True):
        loss = jax.jit(lambda *a: jnp.sum(jnp.square(convolve(*a))) / 100)
        check_grads(loss, case.arrays("float64"), order=2, modes=("fwd", "rev"), eps=1e-4)


def test_the_hessian_of_a_squared_output_is_the_gauss_newton_matrix():
    # Of a function linear in the weights, half the squared norm has the Hessian J^T J.
    with jax.enable_x64(True):
        x = random(4, 4, 2, dtype=np.float64)
        shape = (2, 2, 1, 1, 2)
        convolve = functools.partial(grouped_conv2d, x, stride=2, padding="same")
        basis = np.eye(8).reshape(8, *shape)
        jacobian = np.stack(
            [
                np.ravel(reference.grouped_conv(x, e, stride=(2, 2), sides=((0, 0), (0, 0))))
                for e in basis
            ]
        )
        hessian = jax.jit(jax.hessian(lambda w: 0.5 * jnp.sum(jnp.square(convolve(w)))))(
            random(*shape, dtype=np.float64)
        )
    np.testing.assert_allclose(hessian.reshape(8, 8), jacobian @ jacobian.T, atol=1e-12)


class TestDtypesOfGradients:
    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
    @pytest.mark.parametrize("preferred", [None, jnp.float32])
    def test_gradients_are_in_the_arguments_dtype(self, dtype, preferred):
        primals = [jnp.asarray(a, dtype) for a in arrays((4, 4, 4), (3, 3, 2, 1, 2))]
        y, pull_back = jax.vjp(
            lambda *a: grouped_conv2d(*a, preferred_element_type=preferred), *primals
        )
        cotangents = pull_back(jnp.ones_like(y))
        assert [c.dtype for c in cotangents] == [dtype] * 3

    def test_of_mixed_arguments_each_has_its_own(self):
        x, weights, bias = arrays((4, 4, 4), (3, 3, 2, 1, 2))
        primals = (jnp.asarray(x, jnp.bfloat16), weights, jnp.asarray(bias, jnp.float16))
        with jax.numpy_dtype_promotion("standard"):
            y, pull_back = jax.vjp(grouped_conv2d, *primals)
            cotangents = pull_back(jnp.ones_like(y))
        assert y.dtype == jnp.float32
        assert [c.dtype for c in cotangents] == [jnp.bfloat16, jnp.float32, jnp.float16]


def test_gradients_of_an_empty_batch_are_zero():
    x, weights, bias = arrays((0, 5, 5, 4), (3, 3, 2, 3, 2))
    y, pull_back = jax.vjp(functools.partial(grouped_conv2d, stride=2), x, weights, bias)
    dx, *rest = pull_back(y)
    assert dx.shape == x.shape
    chex.assert_trees_all_equal(rest, [np.zeros_like(weights), np.zeros_like(bias)])


def test_vmap_over_inputs_over_weights_over_biases_and_over_all():
    convolve = functools.partial(
        grouped_conv2d, stride=(1, 2), padding="same", padding_value="replicate"
    )
    primals = x, weights, bias = arrays((2, 4, 6, 4), (3, 3, 2, 3, 2))
    stacks = (
        np.stack([x, x[::-1], 2 * x]),
        np.stack([weights, -weights, weights[::-1]]),
        np.stack([bias, 2 * bias, 3 * bias]),
    )
    for axes in ((0, None, None), (None, 0, None), (None, None, 0), (0, 0, 0)):
        given = [
            one if axis is None else many
            for axis, one, many in zip(axes, primals, stacks, strict=True)
        ]
        y = jax.jit(jax.vmap(convolve, in_axes=axes))(*given)
        for i in range(3):
            each = [a if axis is None else a[i] for axis, a in zip(axes, given, strict=True)]
            expected = reference.grouped_conv(
                *each, stride=(1, 2), sides=((1, 1), (0, 1)), padding_value="replicate"
            )
            np.testing.assert_allclose(y[i], expected, rtol=1e-4, atol=1e-4)
