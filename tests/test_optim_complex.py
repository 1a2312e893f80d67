"""Complex parameters: the formulas hold with ``|g|^2``, as in optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grouped_conv_jax import optim

STEPS = 6
RNG = np.random.default_rng(0)


def random_tree():
    def array(*shape):
        return RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape)

    return {"a": array(3, 2), "b": array(4), "real": RNG.standard_normal(2)}


PARAMS, *GRADIENTS = (random_tree() for _ in range(STEPS + 1))


def as_jax(tree):
    return {
        name: jnp.asarray(x, jnp.complex64 if np.iscomplexobj(x) else jnp.float32)
        for name, x in tree.items()
    }


def train(tx):
    params = as_jax(PARAMS)
    state = tx.init(params)
    for gradients in map(as_jax, GRADIENTS):
        updates, state = jax.jit(tx.update)(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_close(actual, expected):
    for name, x in expected.items():
        np.testing.assert_allclose(actual[name], x, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (optim.sgdm(0.1, 0.8, l2_regularization=0.0), optax.sgd(0.1, 0.8)),
        # The two differ in where epsilon stands, which does not matter when it is this small.
        (optim.adam(0.1, 0.8, 0.9, 1e-30, l2_regularization=0.0), optax.adam(0.1, 0.8, 0.9, 1e-30)),
        (
            optim.rmsprop(0.1, 0.8, 0.01, l2_regularization=0.0),
            optax.rmsprop(0.1, 0.8, 0.01, eps_in_sqrt=False),
        ),
        (
            optim.sgdm(0.1, 0.8, l2_regularization=0.5),
            optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1, 0.8)),
        ),
        (
            optim.sgdm(
                0.1,
                0.8,
                l2_regularization=0.0,
                gradient_threshold=0.5,
                gradient_threshold_method="global-l2norm",
            ),
            optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1, 0.8)),
        ),
    ],
    ids=["sgdm", "adam", "rmsprop", "l2", "global-l2norm"],
)
def test_steps_equal_those_of_optax(ours, theirs):
    # optax mixes real and complex arrays.
    with jax.numpy_dtype_promotion("standard"):
        expected, _ = train(theirs)
    assert_close(train(ours)[0], expected)


def test_adam_equals_a_numpy_loop():
    b1, b2, epsilon, rate = 0.8, 0.9, 0.1, 0.05
    expected = {}
    for name, w in PARAMS.items():
        m, v = np.zeros_like(w), np.zeros(w.shape)
        for t, gradients in enumerate(GRADIENTS, 1):
            g = gradients[name]
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * np.abs(g) ** 2
            w = w - rate * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + epsilon)
        expected[name] = w
    trained, state = train(optim.adam(rate, b1, b2, epsilon, l2_regularization=0.0))
    assert_close(trained, expected)
    dtypes = {x.dtype.name for x in jax.tree.leaves(optax.tree.get(state, "nu"))}
    assert dtypes == {"float32"}


@pytest.mark.parametrize("threshold", [0.5, np.float32(0.5)])
def test_a_norm_is_that_of_magnitudes(threshold):
    gradients = {"long": jnp.array([3j, -4.0]), "short": jnp.array([0.3 + 0.3j])}
    tx = optim.clip_by_threshold(threshold)
    clipped, _ = tx.update(gradients, tx.init(gradients))
    np.testing.assert_allclose(clipped["long"], [0.3j, -0.4], rtol=1e-6)
    np.testing.assert_array_equal(clipped["short"], gradients["short"])


def test_clipping_by_value_keeps_the_phase():
    gradients = {"w": jnp.array([3 + 4j, 0.3 - 0.4j, -2.0, 0.0])}
    tx = optim.clip_by_threshold(1.0, "absolute-value")
    clipped, _ = tx.update(gradients, tx.init(gradients))
    np.testing.assert_allclose(clipped["w"], [0.6 + 0.8j, 0.3 - 0.4j, -1.0, 0.0], rtol=1e-6)


def test_the_l2_loss_is_real_and_its_gradient_is_the_conjugate_of_what_is_added():
    factors = optim.Factors(
        learn_rate={"a": 1.0, "b": 1.0, "real": 1.0}, l2={"a": 2.0, "b": 0.0, "real": 1.0}
    )
    params = as_jax(PARAMS)
    loss, gradient = jax.value_and_grad(lambda p: optim.l2_loss(p, 0.3, factors))(params)
    assert loss.dtype == jnp.float32
    squares = {name: np.sum(np.abs(w) ** 2) for name, w in PARAMS.items()}
    np.testing.assert_allclose(loss, 0.15 * (2 * squares["a"] + squares["real"]), rtol=1e-6)
    tx = optim.add_l2_regularization(0.3, factors)
    added, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert_close(jax.tree.map(jnp.conj, gradient), added)


def test_a_frozen_learnable_stays_where_its_gradient_is_not_finite():
    factors = optim.Factors(learn_rate={"w": 0.0}, l2={"w": 1.0})
    params = {"w": jnp.array([1 + 2j])}
    for solver in (optim.sgdm, optim.adam, optim.rmsprop):
        tx = solver(0.1, factors=factors)
        updates, state = tx.update({"w": jnp.array([jnp.nan + 1j])}, tx.init(params), params)
        np.testing.assert_array_equal(updates["w"], [0.0])
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
