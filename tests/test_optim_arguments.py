"""Bad arguments are refused where they are given, by name, rule and value."""

import jax.numpy as jnp
import numpy as np
import pytest

from grouped_conv_jax import optim

SOLVERS = [optim.sgdm, optim.adam, optim.rmsprop]
NAN, INF = float("nan"), float("inf")
SHARED = [
    ("learning_rate", -0.1, ValueError, "a nonnegative finite number or a schedule"),
    ("learning_rate", INF, ValueError, "a nonnegative finite number or a schedule"),
    ("learning_rate", 10**309, ValueError, "a nonnegative finite number or a schedule"),
    ("learning_rate", "fast", TypeError, "a nonnegative finite number or a schedule"),
    ("learning_rate", True, TypeError, "a nonnegative finite number or a schedule"),
    ("learning_rate", None, TypeError, "a nonnegative finite number or a schedule"),
    ("l2_regularization", -1e-4, ValueError, "a nonnegative finite number"),
    ("l2_regularization", NAN, ValueError, "a nonnegative finite number"),
    ("l2_regularization", [1e-4], TypeError, "a nonnegative finite number"),
    ("gradient_threshold", 0.0, ValueError, "a positive number, or infinity for no clipping"),
    ("gradient_threshold", -1, ValueError, "a positive number, or infinity for no clipping"),
    ("gradient_threshold", NAN, ValueError, "a positive number, or infinity for no clipping"),
    ("gradient_threshold", 10**309, ValueError, "a positive number, or infinity for no clipping"),
    ("gradient_threshold", None, TypeError, "a positive number, or infinity for no clipping"),
]
OWN = [
    (optim.sgdm, "momentum", -0.1, ValueError, "a number from 0 to 1"),
    (optim.sgdm, "momentum", 1.5, ValueError, "a number from 0 to 1"),
    (optim.sgdm, "momentum", NAN, ValueError, "a number from 0 to 1"),
    (optim.sgdm, "momentum", 1j, TypeError, "a number from 0 to 1"),
    *(
        (solver, name, value, kind, "a number of at least 0 and below 1")
        for solver, name in (
            (optim.adam, "gradient_decay_factor"),
            (optim.adam, "squared_gradient_decay_factor"),
            (optim.rmsprop, "squared_gradient_decay_factor"),
        )
        for value, kind in ((1.0, ValueError), (-0.5, ValueError), ("0.9", TypeError))
    ),
    *(
        (solver, "epsilon", value, kind, "a positive finite number")
        for solver in (optim.adam, optim.rmsprop)
        for value, kind in ((0.0, ValueError), (INF, ValueError), (False, TypeError))
    ),
]


@pytest.mark.parametrize(
    ("solver", "name", "value", "kind", "rule"),
    [
        *((optim.sgdm, *row) for row in SHARED),
        # The check is one for all: a row of each argument.
        *((solver, *SHARED[i]) for solver in (optim.adam, optim.rmsprop) for i in (0, 6, 9)),
        *OWN,
    ],
)
def test_solvers_refuse_bad_arguments(solver, name, value, kind, rule):
    with pytest.raises(kind) as error:
        solver(**{name: value})
    assert str(error.value) == f"{name} must be {rule}, got {value!r}"


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("value", "kind"), [("l3norm", ValueError), (2, TypeError)])
def test_solvers_name_the_clipping_methods(solver, value, kind):
    with pytest.raises(kind) as error:
        solver(gradient_threshold_method=value)
    assert str(error.value).startswith(
        "gradient_threshold_method must be one of 'l2norm', 'global-l2norm', 'absolute-value', "
        f"got {value!r}"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optim.clip_by_threshold(0), "threshold must be a positive number, or infinity"),
        (
            lambda: optim.clip_by_threshold(1.0, "norm"),
            "method must be one of 'l2norm', 'glo",
        ),
        (lambda: optim.add_l2_regularization(-1), "l2 must be a nonnegative finite number, got -1"),
        (lambda: optim.l2_loss({}, INF), "l2 must be a nonnegative finite number, got inf"),
    ],
)
def test_transformations_refuse_bad_numbers(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def with_factors(factors):
    return [
        lambda: optim.sgdm(factors=factors),
        lambda: optim.adam(factors=factors),
        lambda: optim.rmsprop(factors=factors),
    ]


@pytest.mark.parametrize("value", [-1.0, NAN, INF])
def test_bad_factors_are_named_by_field_and_path(value):
    good, bad = {"conv": {"weights": 1.0}}, {"conv": {"weights": value}}
    rule = f"at 'conv/weights' must be a nonnegative finite number, got {value!r}"
    learn_rate = optim.Factors(learn_rate=bad, l2=good)
    l2 = optim.Factors(learn_rate=good, l2=bad)
    for call in (
        *with_factors(learn_rate),
        lambda: optim.scale_by_learn_rate_factors(learn_rate),
    ):
        with pytest.raises(ValueError, match="must be") as error:
            call()
        assert str(error.value) == f"factors.learn_rate {rule}"
    for call in (
        *with_factors(l2),
        lambda: optim.add_l2_regularization(0.1, l2),
        lambda: optim.l2_loss({"conv": {"weights": jnp.ones(1)}}, 0.1, l2),
    ):
        with pytest.raises(ValueError, match="must be") as error:
            call()
        assert str(error.value) == f"factors.l2 {rule}"


def test_factors_of_another_kind_are_refused():
    for call in (
        *with_factors({"weights": 1.0}),
        lambda: optim.add_l2_regularization(0.1, {"weights": 1.0}),
        lambda: optim.scale_by_learn_rate_factors({"weights": 1.0}),
        lambda: optim.l2_loss({}, 0.1, {"weights": 1.0}),
    ):
        with pytest.raises(TypeError, match=r"^factors must be the Factors .*, got dict$"):
            call()
    with pytest.raises(TypeError, match=r"factors\.l2 at 'w' must be .* number, got 'high'"):
        optim.sgdm(factors=optim.Factors(learn_rate={"w": 1.0}, l2={"w": "high"}))


def test_numpy_numbers_are_numbers():
    tx = optim.sgdm(np.float32(0.5), np.float64(0.0), l2_regularization=np.int64(0))
    updates, _ = tx.update({"w": jnp.ones(1)}, tx.init({"w": jnp.ones(1)}), {"w": jnp.ones(1)})
    np.testing.assert_array_equal(updates["w"], [-0.5])


@pytest.mark.parametrize("momentum", [0, 1, 1.0])
def test_both_ends_of_the_momentum_are_allowed(momentum):
    tx = optim.sgdm(1.0, momentum, l2_regularization=0.0)
    w = {"w": jnp.ones(1)}
    state = tx.init(w)
    for _ in range(2):
        updates, state = tx.update(w, state, w)
    np.testing.assert_array_equal(updates["w"], [-1.0 - momentum])
