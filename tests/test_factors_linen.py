"""``linen.learnable_factors`` finds every grouped convolution, however deep and however lifted."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from factor_cases import DEFAULT, DENSE, OPTIONS, OWN
from flax.core import freeze

from grouped_conv_jax import optim
from grouped_conv_jax.linen import GroupedConv2D, learnable_factors

KEY = jax.random.key(0)
X = jnp.ones((2, 6, 6, 4))
STACK = jnp.ones((3, 2, 6, 6, 4))


def own(**options):
    return GroupedConv2D(3, 2, 2, **OPTIONS, **options)


def default():
    return GroupedConv2D(3, 1, "channel-wise", padding="same")


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        if train:
            x = nn.Dropout(0.5, deterministic=False)(x)
        return nn.Dense(4)(own(name="conv")(x)), None


BLOCK = {"conv": OWN, "Dense_0": DENSE}
LIFTED = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}


def expected_factors(pairs):
    def is_pair(node):
        return isinstance(node, tuple)

    return optim.Factors(
        *(jax.tree.map(lambda pair, i=i: pair[i], pairs, is_leaf=is_pair) for i in (0, 1))
    )


def check(model, expected, *inputs, rngs=KEY, **kwargs):
    factors = learnable_factors(model, rngs, *inputs, **kwargs)
    assert factors == expected_factors(expected)
    assert {type(leaf) for leaf in jax.tree.leaves(factors)} == {float}
    params = jax.eval_shape(lambda: model.init(rngs, *inputs, **kwargs))["params"]
    for tree in factors:
        assert jax.tree.structure(tree) == jax.tree.structure(nn.unbox(params))


def test_a_layer_that_is_the_model():
    check(own(), OWN, X)
    check(default(), DEFAULT, X)


def test_without_a_bias():
    check(own(use_bias=False), {"weights": OWN["weights"]}, X)


def test_sequential_and_other_layers():
    model = nn.Sequential([own(), nn.relu, nn.Conv(4, (1, 1)), default(), nn.BatchNorm(True)])
    check(
        model,
        {
            "layers_0": OWN,
            "layers_2": DENSE,
            "layers_3": DEFAULT,
            "layers_4": {"scale": (1.0, 1.0), "bias": (1.0, 0.0)},
        },
        X,
    )


def test_lists_dictionaries_and_shared_modules():
    class Model(nn.Module):
        def setup(self):
            self.shared = own()
            self.layers = [default(), nn.Sequential([own(), self.shared])]
            self.named = {"first": own()}

        def __call__(self, x):
            for layer in (self.named["first"], self.shared, *self.layers, self.shared):
                x = layer(x)
            return x

    check(
        Model(),
        {
            "shared": OWN,
            "layers_0": DEFAULT,
            "layers_1": {"layers_0": OWN},
            "named_first": OWN,
        },
        X,
    )


def test_vmap_of_a_model_and_of_the_layer():
    check(nn.vmap(Block, **LIFTED)(), BLOCK, STACK)
    check(nn.vmap(GroupedConv2D, **LIFTED)(3, 2, 2, **OPTIONS), OWN, STACK)


def test_scan():
    check(nn.scan(Block, **LIFTED, length=3)(), BLOCK, X)


def test_remat_of_a_model_and_of_the_layer():
    check(nn.remat(Block)(), BLOCK, X)
    check(nn.remat(GroupedConv2D)(3, 2, 2, **OPTIONS), OWN, X)


def test_scan_of_remat_inside_a_model():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x, _ = nn.scan(nn.remat(Block), **LIFTED, length=2)(name="blocks")(x)
            return default()(x)

    check(Model(), {"blocks": BLOCK, "GroupedConv2D_0": DEFAULT}, X)


def test_jit_even_where_the_trace_is_in_the_cache():
    class Scanned(nn.Module):
        inner: nn.Module

        @nn.compact
        def __call__(self, x):
            scan = nn.scan(lambda block, x: (block(x)[0], None), **LIFTED, length=2)
            return scan(self.inner, x)

    for model, expected in (
        (nn.jit(Block)(), BLOCK),
        (Scanned(nn.jit(Block)()), {"inner": BLOCK}),
    ):
        jax.eval_shape(lambda model=model: model.init(KEY, X))
        for _ in range(2):
            check(model, expected, X)


def test_boxes_with_metadata_have_the_factor_in_their_place():
    partitioned = nn.with_partitioning(nn.initializers.ones, (None,) * 5)
    model = nn.Sequential([own(weights_initializer=partitioned), nn.Dense(4)])
    check(model, {"layers_0": OWN, "layers_1": DENSE}, X)
    params = model.init(KEY, X)["params"]
    assert isinstance(params["layers_0"]["weights"], nn.Partitioned)
    factors = learnable_factors(model, KEY, X)
    for held in (params, nn.unbox(params)):
        shapes = jax.tree.map(lambda f, w: (f, nn.unbox(w).shape), factors.learn_rate, held)
        assert shapes["layers_0"]["weights"] == (0.5, (3, 3, 2, 2, 2))


def test_inputs_may_be_shapes_keywords_and_static_values():
    rngs = {"params": KEY, "dropout": KEY}
    check(Block(), BLOCK, X, True, rngs=rngs)
    check(Block(), BLOCK, X, train=True, rngs=rngs)
    shape = jax.ShapeDtypeStruct((2, 6, 6, 4), jnp.float32)
    assert learnable_factors(Block(), KEY, shape) == expected_factors(BLOCK)
    assert learnable_factors(Block(), KEY, x=shape) == expected_factors(BLOCK)


def test_nothing_is_computed():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = own()(x)
            with pytest.raises(jax.errors.ConcretizationTypeError):
                float(y.sum())
            return y

    assert learnable_factors(Model(), KEY, X) == expected_factors({"GroupedConv2D_0": OWN})


def test_a_model_without_parameters_has_no_factors():
    assert learnable_factors(nn.Dropout(0.5, deterministic=True), KEY, X) == ({}, {})


@pytest.mark.parametrize("container", [dict, freeze])
def test_training_honours_the_factors(container):
    model = nn.Sequential([own(), GroupedConv2D(3, 1, 4, weight_learn_rate_factor=0.0)])
    params = container(model.init(KEY, X)["params"])
    tx = optim.sgdm(0.1, l2_regularization=0.01, factors=learnable_factors(model, KEY, X))
    gradients = jax.grad(lambda p: jnp.mean(jnp.square(model.apply({"params": p}, X))))(params)
    updates, _ = tx.update(gradients, tx.init(params), params)
    trained = optax.apply_updates(params, updates)

    def stepped(layer, leaf, learn_rate, l2):
        w, g = (np.asarray(t[layer][leaf], np.float64) for t in (params, gradients))
        return w - 0.1 * learn_rate * (g + 0.01 * l2 * w)

    for leaf, (learn_rate, l2) in OWN.items():
        np.testing.assert_allclose(
            trained["layers_0"][leaf],
            stepped("layers_0", leaf, learn_rate, l2),
            rtol=1e-5,
            atol=1e-7,
        )
    np.testing.assert_array_equal(trained["layers_1"]["weights"], params["layers_1"]["weights"])
    assert not np.array_equal(trained["layers_1"]["bias"], params["layers_1"]["bias"])
