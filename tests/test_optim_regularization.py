"""L2 regularization in the gradient and in the loss are the same thing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from grouped_conv_jax import optim

PARAMS = {"a": jnp.array([[1.0, -2.0]]), "b": jnp.array([3.0]), "c": jnp.array([5.0, 0.5])}
FACTORS = optim.Factors(
    learn_rate={"a": 1.0, "b": 1.0, "c": 1.0}, l2={"a": 1.0, "b": 0.0, "c": 2.5}
)


def test_each_gradient_gains_l2_times_factor_times_weight():
    tx = optim.add_l2_regularization(0.1, FACTORS)
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    updates, _ = tx.update(gradients, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["a"], [[1.1, 0.8]], rtol=1e-6)
    np.testing.assert_array_equal(updates["b"], [1.0])
    np.testing.assert_allclose(updates["c"], [2.25, 1.125], rtol=1e-6)


def test_without_factors_every_learnable_has_factor_one():
    tx = optim.add_l2_regularization(0.5)
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    for name, w in PARAMS.items():
        np.testing.assert_allclose(updates[name], 1.5 * w, rtol=1e-6)


def test_the_loss_is_half_the_weighted_square_norm():
    expected = 0.5 * 0.1 * (1.0 * (1 + 4) + 2.5 * (25 + 0.25))
    np.testing.assert_allclose(optim.l2_loss(PARAMS, 0.1, FACTORS), expected, rtol=1e-6)
    expected = 0.5 * 0.1 * (1 + 4 + 9 + 25 + 0.25)
    np.testing.assert_allclose(optim.l2_loss(PARAMS, 0.1), expected, rtol=1e-6)


@pytest.mark.parametrize("factors", [None, FACTORS])
def test_the_loss_has_the_gradient_that_the_transformation_adds(factors):
    gradient = jax.jit(jax.grad(lambda params: optim.l2_loss(params, 0.3, factors)))(PARAMS)
    tx = optim.add_l2_regularization(0.3, factors)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    added, _ = tx.update(zeros, tx.init(PARAMS), PARAMS)
    for name in PARAMS:
        np.testing.assert_allclose(gradient[name], added[name], rtol=1e-6)


def test_the_loss_takes_an_nnx_state_with_and_without_metadata():
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    factors = optim.Factors(
        learn_rate={"kernel": 1.0, "bias": 1.0}, l2={"kernel": 2.0, "bias": 0.0}
    )
    expected = 0.5 * 0.1 * 2.0 * np.sum(np.square(model.kernel[...], dtype=np.float64))
    for tree in (params, nnx.to_pure_dict(params)):
        np.testing.assert_allclose(optim.l2_loss(tree, 0.1, factors), expected, rtol=1e-6)


@pytest.mark.parametrize(("l2", "l2_factor"), [(0.0, 1.0), (1.0, 0.0)])
def test_nothing_is_added_for_an_infinite_weight_without_regularization(l2, l2_factor):
    params = {"w": jnp.array([jnp.inf])}
    factors = optim.Factors(learn_rate={"w": 1.0}, l2={"w": l2_factor})
    tx = optim.add_l2_regularization(l2, factors)
    updates, _ = tx.update({"w": jnp.array([2.0])}, tx.init(params), params)
    np.testing.assert_array_equal(updates["w"], [2.0])
    assert optim.l2_loss(params, l2, factors) == 0.0


def test_the_loss_of_16_bit_parameters_is_summed_in_float32():
    params = {"w": jnp.full((300,), 20.0, jnp.float16), "b": jnp.ones((), jnp.bfloat16)}
    loss = optim.l2_loss(params, 1.0)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, 0.5 * (300 * 400 + 1), rtol=1e-6)


def test_the_loss_of_no_parameters_is_zero():
    assert optim.l2_loss({}, 1.0) == 0.0


def test_the_regularization_enters_the_clipping():
    tx = optim.sgdm(1.0, 0.0, l2_regularization=1.0, gradient_threshold=0.5)
    params = {"w": jnp.array([8.0])}
    updates, _ = tx.update({"w": jnp.array([0.25])}, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], [-0.5], rtol=1e-6)
