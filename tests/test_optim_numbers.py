"""Every number of the transformations may be an array with no axes, traced ones included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grouped_conv_jax import optim

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.array([0.5])}
FACTORS = optim.Factors(learn_rate={"w": 0.5, "b": 0.0}, l2={"w": 2.0, "b": 0.0})
SHARED = {"learning_rate": 0.1, "l2_regularization": 0.2, "gradient_threshold": 0.7}
NUMBERS = {
    optim.sgdm: SHARED | {"momentum": 0.8},
    optim.adam: SHARED
    | {"gradient_decay_factor": 0.7, "squared_gradient_decay_factor": 0.9, "epsilon": 0.01},
    optim.rmsprop: SHARED | {"squared_gradient_decay_factor": 0.8, "epsilon": 0.01},
}
CASES = [(solver, name) for solver, numbers in NUMBERS.items() for name in numbers]
METHODS = ["l2norm", "global-l2norm", "absolute-value"]


def gradients_of(params):
    return jax.tree.map(lambda w: 0.7 * w - 0.1, params)


def train(tx, params=PARAMS, steps=3):
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(gradients_of(params), state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_close(actual, expected):
    for name, w in expected.items():
        np.testing.assert_allclose(actual[name], w, rtol=1e-5)


@pytest.mark.parametrize(
    ("solver", "name", "kind"),
    [
        *((*case, jnp.asarray) for case in CASES),
        *((*CASES[0], kind) for kind in (jnp.float32, np.float32, np.array)),
    ],
)
def test_an_array_without_axes_is_a_number(solver, name, kind):
    numbers = NUMBERS[solver]
    tx = solver(**numbers | {name: kind(numbers[name])}, factors=FACTORS)
    assert_close(train(tx), train(solver(**numbers, factors=FACTORS)))


@pytest.mark.parametrize(("solver", "method"), [*zip(NUMBERS, METHODS, strict=True)])
def test_traced_numbers_step_as_concrete_ones(solver, method):
    make = functools.partial(solver, factors=FACTORS, gradient_threshold_method=method)
    traced = jax.jit(lambda numbers: train(make(**numbers)))(NUMBERS[solver])
    assert_close(traced, train(make(**NUMBERS[solver])))


@pytest.mark.parametrize(("solver", "name"), CASES)
def test_vmap_over_a_number_is_a_loop_over_it(solver, name):
    numbers = NUMBERS[solver]
    several = jnp.asarray(numbers[name]) * jnp.array([1.0, 0.5])

    def one(value):
        return train(solver(**numbers | {name: value}, factors=FACTORS))

    stacked = jax.vmap(one)(several)
    for i, value in enumerate(several):
        assert_close(jax.tree.map(lambda w, i=i: w[i], stacked), one(float(value)))


@pytest.mark.parametrize("solver", NUMBERS)
def test_what_switches_a_step_off_does_so_when_traced(solver):
    numbers = NUMBERS[solver] | {"l2_regularization": 0.0, "gradient_threshold": jnp.inf}
    params = {"w": jnp.array([jnp.inf, 1.0]), "b": jnp.array([2.0])}

    def step(numbers):
        tx = solver(**numbers, factors=FACTORS)
        gradients = {"w": jnp.array([3.0, -1.0]), "b": jnp.array([1.0])}
        return tx.update(gradients, tx.init(params), params)[0]

    updates = jax.jit(step)(numbers)
    assert_close(updates, step(numbers))
    assert np.isfinite(updates["w"]).all()


def test_a_traced_regularization_of_the_loss():
    def loss(params, l2):
        return optim.l2_loss(params, l2, FACTORS)

    np.testing.assert_allclose(jax.jit(loss)(PARAMS, 0.2), 0.5 * 0.2 * 2 * 5, rtol=1e-6)
    infinite = PARAMS | {"w": jnp.array([jnp.inf])}
    assert jax.jit(loss)(infinite, 0.0) == 0.0


def test_the_gradient_by_the_rate_is_that_of_the_closed_form():
    def after(rate):
        tx = optim.sgdm(rate, 0.5, l2_regularization=0.0)
        return train(tx, {"w": jnp.array([1.0])}, steps=1)["w"][0]

    # w - rate * (0.7 w - 0.1)
    np.testing.assert_allclose(jax.grad(after)(0.1), -0.6, rtol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.999])
def test_the_first_step_of_adam_is_the_rate_with_traced_decays(decay):
    params = {"w": jnp.array([3.0, -0.02])}

    @jax.jit
    def step(decay):
        tx = optim.adam(1.0, decay, decay, 1e-30, l2_regularization=0.0)
        return tx.update(params, tx.init(params), params)[0]["w"]

    np.testing.assert_allclose(step(decay), [-1.0, 1.0], rtol=1e-5)


@pytest.mark.parametrize("solver", NUMBERS)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float64, jnp.int32])
def test_no_dtype_of_a_traced_number_changes_that_of_state_and_updates(solver, dtype):
    with jax.enable_x64(True):
        params = {"w": jnp.ones(2, jnp.float32), "b": jnp.ones(1, jnp.float64)}

        def run(numbers):
            tx = solver(**numbers, factors=FACTORS)
            state = tx.init(params)
            updates, after = tx.update(params, state, params)
            return updates, state, after

        numbers = {name: jnp.zeros((), dtype) for name in NUMBERS[solver]}
        updates, before, after = jax.eval_shape(run, numbers)
    assert {name: u.dtype.name for name, u in updates.items()} == {"w": "float32", "b": "float64"}
    assert before == after


@pytest.mark.parametrize("solver", NUMBERS)
def test_parameters_may_be_python_floats(solver):
    floats = {"w": 1.0, "b": 0.5}
    tx = solver(**NUMBERS[solver], factors=FACTORS)
    assert_close(train(tx, floats), train(tx, jax.tree.map(jnp.asarray, floats)))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (jnp.float32(-0.1), ValueError),
        (np.array(np.inf), ValueError),
        (jnp.array([0.1]), TypeError),
        (jnp.array(True), TypeError),
        (jnp.array(0.1 + 0j), TypeError),
        (jax.random.key(0), TypeError),
    ],
    ids=["negative", "infinite", "an axis", "boolean", "complex", "key"],
)
def test_arrays_are_checked(value, kind):
    with pytest.raises(kind) as error:
        optim.sgdm(value)
    rule = "a nonnegative finite number or a schedule"
    assert str(error.value) == f"learning_rate must be {rule}, got {value!r}"


@pytest.mark.parametrize(
    "value", [jnp.ones(1), jnp.array(True), jnp.array(1j)], ids=["an axis", "boolean", "complex"]
)
def test_the_kind_of_a_traced_number_is_checked(value):
    with pytest.raises(TypeError, match=r"^momentum must be a number from 0 to 1, got .*Trace"):
        jax.jit(lambda value: optim.sgdm(momentum=value))(value)


def test_factors_are_concrete():
    assert optim.set_factor(FACTORS, "w", l2=jnp.float32(0.5)).l2 == {"w": 0.5, "b": 0.0}

    def with_traced(value):
        optim.sgdm(factors=FACTORS._replace(l2={"w": value, "b": 0.0}))

    with pytest.raises(TypeError, match=r"^factors\.l2 at 'w' must be a concrete number, got "):
        jax.jit(with_traced)(1.0)
    with pytest.raises(TypeError, match=r"^learn_rate must be a concrete number, got "):
        jax.jit(lambda value: optim.set_factor(FACTORS, "w", learn_rate=value))(1.0)
