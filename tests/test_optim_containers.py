"""The transformations work in every container of parameters, and under JAX's transformations."""

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.core import freeze

from grouped_conv_jax import optim

SOLVERS = [optim.sgdm, optim.adam, optim.rmsprop]
METHODS = ["l2norm", "global-l2norm", "absolute-value"]
FACTORS = optim.Factors(
    learn_rate={"conv": {"weights": 0.5, "bias": 2.0}, "norm": {"scale": 0.0}},
    l2={"conv": {"weights": 1.0, "bias": 0.0}, "norm": {"scale": 3.0}},
)


def params():
    return {
        "conv": {"weights": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])},
        "norm": {"scale": jnp.array([4.0, 3.0])},
    }


def gradients_of(params):
    return jax.tree.map(lambda w: 0.7 * w - 0.1, params)


def solver_with_everything(solver, factors=FACTORS, method="global-l2norm"):
    return solver(
        lambda count: 0.1 / (1 + count.astype(jnp.float32)),
        l2_regularization=0.1,
        gradient_threshold=1.0,
        gradient_threshold_method=method,
        factors=factors,
    )


def train(tx, params, steps=4):
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(gradients_of(params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_same_values(actual, expected):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-6)


def boxed(params):
    return jax.tree.map(lambda w: nn.Partitioned(w, (None,) * w.ndim), params)


def state_with_metadata(params):
    return jax.tree.map(lambda w: nnx.Param(w, note="metadata"), nnx.State(params))


CONTAINERS = {
    "FrozenDict": freeze,
    "Linen boxes": boxed,
    "FrozenDict of boxes": lambda params: freeze(boxed(params)),
    "NNX state": nnx.State,
    "NNX state with metadata": state_with_metadata,
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_factors_in_a_dictionary_serve_every_container(container):
    tx = solver_with_everything(optim.adam)
    trained, _ = train(tx, CONTAINERS[container](params()))
    expected, _ = train(tx, params())
    assert jax.tree.structure(trained) == jax.tree.structure(CONTAINERS[container](params()))
    assert_same_values(trained, expected)


def test_factors_in_other_containers_serve_a_dictionary():
    expected, _ = train(solver_with_everything(optim.adam), params())
    for container in (freeze, nnx.State):
        factors = optim.Factors(*map(container, FACTORS))
        trained, _ = train(solver_with_everything(optim.adam, factors), params())
        assert_same_values(trained, expected)


@pytest.mark.parametrize("solver", SOLVERS)
def test_nnx_optimizer_gives_what_the_bare_solver_gives(solver):
    # nnx.Optimizer shows init the metadata and update the bare arrays.
    class Layer(nnx.Module):
        def __init__(self, leaves):
            for name, value in leaves.items():
                setattr(self, name, nnx.Param(value, note="metadata"))

    class Model(nnx.Module):
        def __init__(self):
            for name, leaves in params().items():
                setattr(self, name, Layer(leaves))

    model = Model()
    tx = solver_with_everything(solver)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, gradients_of(nnx.state(model, nnx.Param)))

    for _ in range(4):
        step(model, optimizer)
    expected, _ = train(tx, params())
    assert_same_values(nnx.to_pure_dict(nnx.state(model, nnx.Param)), expected)
    np.testing.assert_array_equal(model.norm.scale[...], [4.0, 3.0])


@pytest.mark.parametrize(("solver", "method"), [*zip(SOLVERS, METHODS, strict=True)])
def test_a_scan_gives_what_a_loop_gives(solver, method):
    tx = solver_with_everything(solver, method=method)

    def body(carry, _):
        w, state = carry
        updates, state = tx.update(gradients_of(w), state, w)
        return (optax.apply_updates(w, updates), state), None

    (trained, state), _ = jax.lax.scan(body, (params(), tx.init(params())), None, length=4)
    expected, expected_state = train(tx, params())
    assert_same_values(trained, expected)
    assert_same_values(state, expected_state)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_state_survives_serialization(solver, tmp_path):
    tx = solver_with_everything(solver)
    trained, state = train(tx, params())
    by_flax = flax.serialization.from_bytes(tx.init(params()), flax.serialization.to_bytes(state))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        by_orbax = checkpointer.restore(tmp_path / "state", tx.init(params()))
    expected, _ = tx.update(gradients_of(trained), state, trained)
    for restored in (by_flax, by_orbax):
        updates, _ = tx.update(gradients_of(trained), restored, trained)
        assert_same_values(updates, expected)


def test_optax_finds_the_parameters_in_the_state():
    tx = solver_with_everything(optim.adam)
    marked = optax.tree.map_params(
        tx, lambda _: "moment", tx.init(params()), transform_non_params=lambda _: "count"
    )
    assert jax.tree.leaves(marked) == ["count"] + ["moment"] * 6 + ["count"]


def test_part_of_the_parameters_can_be_masked_from_outside():
    mask = {"conv": {"weights": True, "bias": True}, "norm": {"scale": False}}
    trained, _ = train(optax.masked(optim.sgdm(1.0, 0.0, factors=FACTORS), mask), params(), 1)
    expected, _ = train(optim.sgdm(1.0, 0.0, factors=FACTORS), params(), 1)
    assert_same_values(trained["conv"], expected["conv"])
    # What is masked comes through as the gradient.
    np.testing.assert_allclose(trained["norm"]["scale"], 1.7 * np.array([4, 3]) - 0.1, rtol=1e-6)


@pytest.mark.parametrize("field", ["learn_rate", "l2"])
def test_factors_of_another_structure_are_refused_naming_the_differences(field):
    other = {"conv": {"weights": 1.0}, "head": {"kernel": 1.0, "bias": 0.0}}
    factors = FACTORS._replace(**{field: other})
    tx = optim.sgdm(factors=factors)
    with pytest.raises(ValueError, match="must have the structure") as error:
        tx.init(params())
    message = (
        f"factors.{field} must have the structure of the parameters, got "
        "missing 'conv/bias', 'norm/scale'; extra 'head/bias', 'head/kernel'"
    )
    assert str(error.value) == message
    if field == "l2":
        with pytest.raises(ValueError, match="must have the structure") as error:
            optim.l2_loss(params(), 0.1, factors)
        assert str(error.value) == message


def test_factors_for_parameters_with_their_collection_are_refused():
    tx = optim.scale_by_learn_rate_factors(FACTORS)
    with pytest.raises(ValueError, match=r"missing 'params/conv/bias', .*; extra 'conv/bias', "):
        tx.init({"params": params()})


def test_uniform_factors_are_checked_too():
    factors = optim.Factors(learn_rate={"w": 1.0}, l2={"w": 1.0})
    tx = optim.scale_by_learn_rate_factors(factors)
    with pytest.raises(ValueError, match="missing 'v'; extra 'w'"):
        tx.update({"v": jnp.ones(1)}, tx.init({"w": jnp.ones(1)}))


def test_a_model_without_learnables_has_nothing_to_do():
    tx = optim.adam(factors=optim.Factors(learn_rate={}, l2={}))
    updates, _ = tx.update({}, tx.init({}), {})
    assert updates == {}
