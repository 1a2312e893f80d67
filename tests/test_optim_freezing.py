"""A learning-rate factor of 0 freezes, whatever the gradient, and harms nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grouped_conv_jax import optim

FACTORS = optim.Factors(learn_rate={"frozen": 0.0, "free": 0.5}, l2={"frozen": 1.0, "free": 1.0})
SOLVERS = [optim.sgdm, optim.adam, optim.rmsprop]
METHODS = ["l2norm", "global-l2norm", "absolute-value"]


def run(tx, frozen_gradient, steps=3):
    params = {"frozen": jnp.array([1.0, -2.0]), "free": jnp.array([0.5, 4.0])}
    state = tx.init(params)
    for _ in range(steps):
        gradients = {"frozen": frozen_gradient, "free": params["free"] - 1}
        updates, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_gradient_that_is_not_finite_counts_as_zero_where_frozen(solver, method, bad):
    tx = solver(0.1, gradient_threshold=1.0, gradient_threshold_method=method, factors=FACTORS)
    params, state = run(tx, jnp.array([bad, 3.0]))
    expected, _ = run(tx, jnp.array([0.0, 3.0]))
    np.testing.assert_array_equal(params["frozen"], [1.0, -2.0])
    np.testing.assert_array_equal(params["free"], expected["free"])
    assert np.isfinite(params["free"]).all()
    assert not np.array_equal(params["free"], [0.5, 4.0])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_a_finite_gradient_counts_in_the_global_norm_where_frozen():
    tx = optim.sgdm(
        1.0,
        l2_regularization=0.0,
        gradient_threshold=1.0,
        gradient_threshold_method="global-l2norm",
        factors=FACTORS,
    )
    params = {"frozen": jnp.array([0.0]), "free": jnp.array([0.0])}
    gradients = {"frozen": jnp.array([3.0]), "free": jnp.array([4.0])}
    updates, _ = tx.update(gradients, tx.init(params), params)
    np.testing.assert_array_equal(updates["frozen"], [0.0])
    np.testing.assert_allclose(updates["free"], [-0.5 * 4 / 5], rtol=1e-6)


def test_a_gradient_that_is_not_finite_shows_where_it_is_not_frozen():
    gradients = {"frozen": jnp.array([1.0]), "free": jnp.array([jnp.nan])}
    tx = optim.sgdm(factors=FACTORS)
    updates, _ = tx.update(gradients, tx.init(gradients), {k: jnp.ones(1) for k in gradients})
    assert np.isnan(updates["free"]).all()
    np.testing.assert_array_equal(updates["frozen"], [0.0])


def test_the_factors_alone_freeze_an_update_that_is_not_finite():
    tx = optim.scale_by_learn_rate_factors(FACTORS)
    updates = {"frozen": jnp.array([jnp.nan, jnp.inf]), "free": jnp.array([3.0, -1.0])}
    updates, _ = tx.update(updates, tx.init(updates))
    np.testing.assert_array_equal(updates["frozen"], [0.0, 0.0])
    np.testing.assert_array_equal(updates["free"], [1.5, -0.5])


def test_without_factors_updates_pass_unchanged():
    tx = optim.scale_by_learn_rate_factors()
    updates, _ = tx.update({"w": jnp.array([0.1, -7.0])}, tx.init({"w": jnp.zeros(2)}))
    np.testing.assert_array_equal(updates["w"], jnp.array([0.1, -7.0]))
