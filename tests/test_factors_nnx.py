"""``nnx.learnable_factors`` finds every grouped convolution, and the solvers honour its factors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from factor_cases import DEFAULT, DENSE, OPTIONS, OWN
from flax import nnx

from grouped_conv_jax import linen, optim
from grouped_conv_jax.nnx import GroupedConv2D, learnable_factors


def own(**options):
    return GroupedConv2D(4, 3, 2, 2, **OPTIONS, **options, rngs=nnx.Rngs(0))


def default():
    return GroupedConv2D(4, 3, 1, "channel-wise", padding="same", rngs=nnx.Rngs(1))


def check(model, expected):
    factors = learnable_factors(model)
    params = nnx.state(model, nnx.Param)
    for i, tree in enumerate(factors):
        pairs = jax.tree.map(lambda p, i=i: p[i], expected, is_leaf=lambda n: isinstance(n, tuple))
        assert nnx.to_pure_dict(tree) == pairs
        assert {type(leaf) for leaf in jax.tree.leaves(tree)} == {float}
        assert jax.tree.structure(tree) == jax.tree.structure(nnx.as_pure(params))


def test_a_layer_that_is_the_model():
    check(own(), OWN)
    check(default(), DEFAULT)


def test_without_a_bias():
    check(own(use_bias=False), {"weights": OWN["weights"]})


def test_sequential_and_other_layers():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(own(), nnx.relu, nnx.Linear(4, 4, rngs=rngs), default())
    check(model, {"layers": {0: OWN, 2: DENSE, 3: DEFAULT}})


def test_lists_dictionaries_and_shared_modules():
    class Model(nnx.Module):
        def __init__(self):
            shared = own()
            self.last = shared
            self.layers = nnx.List([default(), shared, nnx.Sequential(own(), shared)])
            self.named = nnx.Dict({"first": own()})
            self.first = shared

    check(
        Model(),
        {"first": OWN, "layers": {0: DEFAULT, 2: {"layers": {0: OWN}}}, "named": {"first": OWN}},
    )


def test_a_container_of_modules():
    check([default(), {"a": own()}], {0: DEFAULT, 1: {"a": OWN}})


def test_a_stack_made_by_vmap():
    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=0, out_axes=0)
    def stack(rngs):
        return GroupedConv2D(4, 3, 2, 2, **OPTIONS, rngs=rngs)

    class Model(nnx.Module):
        def __init__(self):
            self.stack = stack(nnx.Rngs(0))

    model = Model()
    assert model.stack.weights.shape == (3, 3, 3, 2, 2, 2)
    check(model, {"stack": OWN})


def test_split_and_merge_keep_the_factors():
    check(nnx.merge(*nnx.split(own())), OWN)


def test_batch_statistics_have_no_factors():
    norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    check(
        nnx.Sequential(own(), norm),
        {"layers": {0: OWN, 1: {"scale": (1.0, 1.0), "bias": (1.0, 0.0)}}},
    )


STATES = {
    "a state": nnx.state,
    "what split returns": nnx.split,
    "a graph definition": nnx.graphdef,
    "a pure dictionary": lambda model: nnx.to_pure_dict(nnx.state(model)),
    "a flat state": lambda model: nnx.to_flat_state(nnx.state(model)),
    "variables": lambda model: {"weights": model.weights},
    "a module beside a state": lambda model: [model, nnx.state(model)],
    "a Linen module": lambda _: linen.GroupedConv2D(3, 2, 2),
    "an empty list": lambda _: [],
    "nothing": lambda _: None,
}


@pytest.mark.parametrize("name", STATES)
def test_what_is_no_module_is_refused(name):
    state = STATES[name](own())
    with pytest.raises(TypeError, match="model must be an NNX module or a container") as error:
        learnable_factors(state)
    assert f"of modules, got {type(state).__name__}; a state has no factors" in str(error.value)


class Model(nnx.Module):
    """Its first layer has sharding metadata on its weights, and its second is frozen."""

    def __init__(self):
        initializer = nnx.with_partitioning(
            nnx.initializers.normal(), (None, None, None, "filters", None)
        )
        self.conv = own(weights_initializer=initializer)
        self.frozen = GroupedConv2D(
            4,
            1,
            1,
            4,
            weight_learn_rate_factor=0.0,
            bias_learn_rate_factor=0.0,
            rngs=nnx.Rngs(1),
        )

    def __call__(self, x):
        return self.frozen(self.conv(x))


@pytest.fixture
def mesh():
    mesh = jax.make_mesh((1,), ("filters",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        yield


def loss(model, x):
    return jnp.mean(jnp.square(model(x)))


@pytest.mark.usefixtures("mesh")
def test_nnx_optimizer_and_the_functional_form_agree():
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 4))
    model = Model()
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    tx = optim.adam(0.1, l2_regularization=0.5, factors=learnable_factors(model))
    graph, params = nnx.split(model)
    state = tx.init(params)
    for _ in range(3):
        gradients = jax.grad(lambda p: loss(nnx.merge(graph, p), x))(params)
        updates, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, updates)

    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x):
        optimizer.update(model, nnx.grad(loss)(model, x))

    for _ in range(3):
        step(model, optimizer, x)
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    for path in (("conv", "weights"), ("conv", "bias")):
        one, two = (tree[path[0]][path[1]] for tree in (after, nnx.to_pure_dict(params)))
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
        assert not np.array_equal(one, before[path[0]][path[1]])
    for leaf in ("weights", "bias"):
        np.testing.assert_array_equal(after["frozen"][leaf], before["frozen"][leaf])


@pytest.mark.usefixtures("mesh")
def test_nnx_optimizer_decays_each_learnable_by_its_own_factor():
    model = Model()
    model.conv.bias[...] = jnp.full((1, 1, 2, 2), 2.0)
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    tx = optim.sgdm(0.1, l2_regularization=0.5, factors=learnable_factors(model))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param)))
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    for leaf, (learn_rate, l2) in OWN.items():
        remaining = 1 - 0.1 * learn_rate * 0.5 * l2
        np.testing.assert_allclose(after["conv"][leaf], remaining * before["conv"][leaf], rtol=1e-6)
