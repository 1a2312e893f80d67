"""What optax and NNX wrap around a transformation works as with optax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from optax import contrib

from grouped_conv_jax import optim

PARAMS = {"conv": {"weights": jnp.array([1.0, -2.0]), "bias": jnp.array([0.5])}}
FACTORS = optim.Factors(
    learn_rate={"conv": {"weights": 0.5, "bias": 2.0}}, l2={"conv": {"weights": 1.0, "bias": 0.0}}
)
SOLVERS = [optim.sgdm, optim.adam, optim.rmsprop]


@pytest.fixture(autouse=True)
def standard_promotion():
    """The wrappers mix integers and floats themselves."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def gradients_of(params):
    return jax.tree.map(lambda w: 0.7 * w - 0.1, params)


def train(tx, params=PARAMS, steps=4, change=lambda state: state, **extra):
    update = jax.jit(tx.update)
    state = tx.init(params)
    for _ in range(steps):
        updates, state = update(gradients_of(params), change(state), params, **extra)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_close(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5)


def inject_stateful_hyperparams(solver):
    with pytest.warns(DeprecationWarning, match="inject_stateful_hyperparams"):
        return optax.inject_stateful_hyperparams(solver)


INJECTIONS = [optax.inject_hyperparams, inject_stateful_hyperparams]


@pytest.mark.parametrize(
    ("solver", "inject", "method"),
    [
        (optim.sgdm, optax.inject_hyperparams, "l2norm"),
        (optim.adam, optax.inject_hyperparams, "global-l2norm"),
        (optim.rmsprop, optax.inject_hyperparams, "absolute-value"),
        (optim.adam, inject_stateful_hyperparams, "l2norm"),
    ],
)
def test_injected_hyperparameters_step_as_given_ones(solver, inject, method):
    for threshold in (0.5, float("inf")):
        options = {"gradient_threshold": threshold, "gradient_threshold_method": method}
        injected, _ = train(inject(solver)(0.1, **options, factors=FACTORS))
        assert_close(injected, train(solver(0.1, **options, factors=FACTORS))[0])


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_injected_rate_can_be_changed_and_read(solver):
    def halve(state):
        rate = state.hyperparams["learning_rate"] / 2
        return state._replace(hyperparams=state.hyperparams | {"learning_rate": rate})

    tx = optax.inject_hyperparams(solver)(0.4, factors=FACTORS)
    trained, state = train(tx, change=halve)
    np.testing.assert_allclose(state.hyperparams["learning_rate"], 0.025, rtol=1e-6)
    expected, _ = train(solver(lambda count: 0.2 * 0.5**count, factors=FACTORS))
    assert_close(trained, expected)


def test_an_injected_schedule_of_any_number():
    tx = optax.inject_hyperparams(optim.sgdm)(
        lambda count: 0.1 / (1 + count), lambda count: jnp.where(count < 2, 0.0, 0.5)
    )
    params, v = {"w": jnp.array([1.0])}, 0.0
    trained, _ = train(tx, params)
    w = 1.0
    for step in range(4):
        v = (0.0 if step < 2 else 0.5) * v - 0.1 / (1 + step) * (0.7 * w - 0.1 + 1e-4 * w)
        w += v
    np.testing.assert_allclose(trained["w"], [w], rtol=1e-5)


def test_an_injected_stateful_schedule():
    class Falling:
        def init(self):
            return jnp.asarray(0.4)

        def update(self, state, **extra):
            return state / (1 + extra["value"])

        def __call__(self, state, **extra):
            del extra
            return state

    trained, _ = train(optax.inject_hyperparams(optim.sgdm)(Falling()), value=1.0)
    assert_close(trained, train(optim.sgdm(lambda count: 0.4 * 0.5**count))[0])


@pytest.mark.parametrize("inject", INJECTIONS)
def test_a_bad_injected_number_is_refused_by_name(inject):
    with pytest.raises(ValueError, match=r"^learning_rate must be a nonnegative finite number or"):
        inject(optim.adam)(-0.1).init(PARAMS)


def test_injected_numbers_for_16_bit_parameters():
    params = {"w": jnp.array([1.0, -2.0], jnp.bfloat16)}
    with pytest.raises(
        ValueError, match=r"^squared_gradient_decay_factor .* below 1, got .*bfloat"
    ):
        optax.inject_hyperparams(optim.adam)(0.1).init(params)
    injected = optax.inject_hyperparams(optim.adam, hyperparam_dtype=jnp.float32)(0.1)
    trained, expected = (train(tx, params)[0]["w"] for tx in (injected, optim.adam(0.1)))
    np.testing.assert_array_equal(trained.astype(float), expected.astype(float))


TRANSFORMATIONS = {
    "sgdm": optim.sgdm(0.1),
    "adam": optim.adam(0.1),
    "rmsprop": optim.rmsprop(0.1),
    "sgdm with factors": optim.sgdm(0.1, factors=FACTORS),
    "add_l2_regularization": optim.add_l2_regularization(0.1),
    "scale_by_learn_rate_factors": optim.scale_by_learn_rate_factors(),
    "clip_by_threshold": optim.clip_by_threshold(0.1),
    "clip_by_threshold by value": optim.clip_by_threshold(0.1, "absolute-value"),
    "clip_by_threshold, off": optim.clip_by_threshold(float("inf")),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_update_takes_extra_arguments(name):
    tx = TRANSFORMATIONS[name]
    assert_close(train(tx, value=1.0, grad=gradients_of(PARAMS))[0], train(tx)[0])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (optim.sgdm(0.4, 0.5, l2_regularization=0.0), optax.sgd(0.4, 0.5)),
        (optim.adam(0.4, 0.8, 0.9, 1e-30, l2_regularization=0.0), optax.adam(0.4, 0.8, 0.9, 1e-30)),
        (optim.rmsprop(0.4, l2_regularization=0.0), optax.rmsprop(0.4, eps_in_sqrt=False)),
    ],
    ids=["sgdm", "adam", "rmsprop"],
)
def test_reduce_on_plateau(ours, theirs):
    plateau = contrib.reduce_on_plateau(0.5, patience=1)
    trained, state = train(optax.chain(ours, plateau), value=1.0)
    expected, _ = train(optax.chain(theirs, plateau), value=1.0)
    assert_close(trained, expected)
    assert state[-1].scale < 1


@pytest.mark.parametrize("solver", SOLVERS)
def test_multi_steps_averages_gradients(solver):
    accumulated = optax.MultiSteps(solver(0.1, factors=FACTORS), 2)
    state, params = accumulated.init(PARAMS), PARAMS
    for gradient in (1.0, 3.0) * 2:
        gradients = jax.tree.map(lambda w, g=gradient: jnp.full_like(w, g), params)
        updates, state = jax.jit(accumulated.update)(gradients, state, params)
        params = optax.apply_updates(params, updates)
    tx = solver(0.1, factors=FACTORS)
    expected, state = PARAMS, tx.init(PARAMS)
    for _ in range(2):
        gradients = jax.tree.map(lambda w: jnp.full_like(w, 2.0), expected)
        updates, state = tx.update(gradients, state, expected)
        expected = optax.apply_updates(expected, updates)
    assert_close(params, expected)


@pytest.mark.parametrize("solver", SOLVERS)
def test_apply_if_finite_skips_a_step(solver):
    tx = optax.apply_if_finite(solver(0.1, factors=FACTORS), 3)
    state = tx.init(PARAMS)
    bad = jax.tree.map(lambda w: jnp.full_like(w, jnp.nan), PARAMS)
    updates, state = jax.jit(tx.update)(bad, state, PARAMS)
    assert_close(updates, jax.tree.map(jnp.zeros_like, PARAMS))
    updates, _ = jax.jit(tx.update)(gradients_of(PARAMS), state, PARAMS)
    plain = solver(0.1, factors=FACTORS)
    assert_close(updates, plain.update(gradients_of(PARAMS), plain.init(PARAMS), PARAMS)[0])


# Labels may stand for whole layers.
@pytest.mark.parametrize(
    "labels",
    [
        {"body": "a", "head": "b"},
        {"body": {"weights": "a", "bias": "b"}, "head": "b"},
    ],
)
def test_partition_with_factors_of_the_whole_model(labels):
    params = {
        "body": {"weights": jnp.array([1.0]), "bias": jnp.array([2.0])},
        "head": {"weights": jnp.array([3.0])},
    }
    factors = optim.Factors(
        learn_rate={"body": {"weights": 0.5, "bias": 0.0}, "head": {"weights": 2.0}},
        l2={"body": {"weights": 1.0, "bias": 0.0}, "head": {"weights": 3.0}},
    )
    rates = {"a": 0.1, "b": 0.2}
    tx = optax.partition({k: optim.adam(r, factors=factors) for k, r in rates.items()}, labels)
    trained, _ = train(tx, params)
    per_rate = {k: train(optim.adam(r, factors=factors), params)[0] for k, r in rates.items()}
    for layer, leaves in params.items():
        for leaf in leaves:
            label = labels[layer] if isinstance(labels[layer], str) else labels[layer][leaf]
            np.testing.assert_allclose(
                trained[layer][leaf], per_rate[label][layer][leaf], rtol=1e-6
            )


def test_a_masked_layer_without_factors_is_refused():
    factors = optim.Factors(learn_rate={"head": 1.0}, l2={"head": 1.0})
    tx = optax.masked(optim.sgdm(factors=factors), {"body": False, "head": True})
    with pytest.raises(ValueError, match="missing 'body'"):
        tx.init({"body": {"weights": jnp.ones(1)}, "head": jnp.ones(1)})


@pytest.mark.parametrize("solver", SOLVERS)
def test_nnx_optimizer_passes_extra_arguments(solver):
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    tx = optax.chain(solver(0.1), contrib.reduce_on_plateau(0.5, patience=1))
    for with_plateau in (tx, solver(0.1)):
        optimizer = nnx.Optimizer(model, with_plateau, wrt=nnx.Param)
        before = model.kernel[...]
        gradients = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
        optimizer.update(model, gradients, value=jnp.asarray(1.0), grad=gradients)
        assert not np.array_equal(before, model.kernel[...])
