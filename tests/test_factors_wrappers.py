"""Factors arrive through the modules that Flax wraps around a layer, or an error says why not."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from factor_cases import BIAS, DENSE, OPTIONS, OWN, WEIGHTS
from flax import nnx
from flax.nnx.bridge.wrappers import to_linen_class

from grouped_conv_jax import linen, optim
from grouped_conv_jax import nnx as grouped_nnx

KEY = jax.random.key(0)
X = jnp.ones((2, 6, 6, 4))


def linen_layer(**options):
    return linen.GroupedConv2D(3, 2, 2, **OPTIONS, **options)


def nnx_layer(rngs=None, **options):
    return grouped_nnx.GroupedConv2D(
        4, 3, 2, 2, **OPTIONS | options, rngs=nnx.Rngs(0) if rngs is None else rngs
    )


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(linen_layer(name="conv")(x))


class Mixed(nnx.Module):
    """NNX around NNX and, by a bridge, around Linen."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx_layer(rngs), nnx.Linear(4, 4, rngs=rngs)])
        self.linen = nnx.bridge.ToNNX(linen_layer(), rngs=rngs).lazy_init(X)

    def __call__(self, x):
        return self.linen(self.layers[1](self.layers[0](x)))


MIXED = {"layers": {0: OWN, 1: DENSE}, "linen": OWN}


def field(pairs, which):
    return jax.tree.map(lambda p: p[which], pairs, is_leaf=lambda n: isinstance(n, tuple))


def check_linen(model, expected):
    factors = linen.learnable_factors(model, KEY, X)
    assert factors == optim.Factors(field(expected, 0), field(expected, 1))
    params = nn.unbox(jax.eval_shape(model.init, KEY, X))["params"]
    assert jax.tree.structure(factors.learn_rate) == jax.tree.structure(params)


def check_nnx(model, expected):
    params = nnx.state(model, nnx.Param)
    for which, tree in enumerate(grouped_nnx.learnable_factors(model)):
        assert nnx.to_pure_dict(tree) == field(expected, which)
        assert jax.tree.structure(tree) == jax.tree.structure(nnx.as_pure(params))


class ByClass(
    to_linen_class(
        grouped_nnx.GroupedConv2D,
        num_channels=4,
        filter_size=3,
        num_filters_per_group=2,
        num_groups=2,
        **OPTIONS,
    )
):
    """An NNX class as a Linen class."""


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nnx.bridge.ToLinen(grouped_nnx.GroupedConv2D, (4, 3, 2, 2), OPTIONS), OWN),
        (nnx.bridge.to_linen(grouped_nnx.GroupedConv2D, 4, 3, 2, 2, **OPTIONS), OWN),
        (nnx.bridge.ToLinen(nnx_layer, skip_rng=True), OWN),
        (ByClass(), OWN),
        (nnx.bridge.ToLinen(Mixed), MIXED),
        (
            nn.Sequential([linen_layer(), nnx.bridge.ToLinen(Mixed)]),
            {"layers_0": OWN, "layers_1": MIXED},
        ),
        (nn.jit(nnx.bridge.ToLinen)(Mixed), MIXED),
    ],
    ids=["ToLinen", "to_linen", "skip_rng", "to_linen_class", "mixed", "in a model", "jit"],
)
def test_nnx_in_linen(model, expected):
    check_linen(model, expected)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (linen_layer(), OWN),
        (linen_layer(use_bias=False), {"weights": WEIGHTS}),
        (nn.jit(linen.GroupedConv2D)(3, 2, 2, **OPTIONS), OWN),
        (nn.remat(linen.GroupedConv2D)(3, 2, 2, **OPTIONS), OWN),
        (nnx.bridge.ToLinen(Mixed), MIXED),
        (nn.Dense(4), DENSE),
        (nn.Sequential([nn.Dense(4)]), {"layers_0": DENSE}),
    ],
    ids=["layer", "no bias", "jit", "remat", "ToLinen", "Dense", "Sequential"],
)
def test_linen_in_nnx(module, expected):
    bridge = nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0)).lazy_init(X)
    check_nnx(bridge, expected)
    check_nnx(nnx.Sequential(bridge, nnx_layer()), {"layers": {0: expected, 1: OWN}})


def test_layers_within_a_linen_model_in_nnx_are_refused_and_can_be_read_in_linen():
    bridge = nnx.bridge.ToNNX(Block(), rngs=nnx.Rngs(0)).lazy_init(X)
    message = (
        r"a Linen model in nnx\.bridge\.ToNNX cannot be read without its inputs, got Block at "
        r"'layers/0' with 'conv/weights'; read them by grouped_conv_jax\.linen\.learnable_factors"
    )
    with pytest.raises(ValueError, match=message):
        grouped_nnx.learnable_factors(nnx.Sequential(bridge))
    factors = linen.learnable_factors(Block(), KEY, X)
    tx = optim.sgdm(1.0, 0.0, l2_regularization=0.0, factors=factors)
    optimizer = nnx.Optimizer(bridge, tx, wrt=nnx.Param)
    before = bridge.conv["weights"][...]
    gradients = jax.tree.map(jnp.ones_like, nnx.state(bridge, nnx.Param))
    optimizer.update(bridge, gradients)
    np.testing.assert_allclose(bridge.conv["weights"][...], before - 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        nnx.bridge.ToLinen(
            grouped_nnx.GroupedConv2D, (4, 3, 2, 2), {"weight_learn_rate_factor": 0}
        ),
        nn.WeightNorm(
            linen.GroupedConv2D(3, 2, 2, weight_learn_rate_factor=0), variable_filter={"weights"}
        ),
    ],
    ids=["ToLinen", "WeightNorm"],
)
def test_what_is_frozen_within_a_wrapper_does_not_train(model):
    variables = model.init(KEY, X)
    params = variables["params"]
    tx = optim.sgdm(0.1, factors=linen.learnable_factors(model, KEY, X))

    def loss(params):
        return jnp.mean(jnp.square(model.apply({"params": params}, X) - 1))

    updates, _ = tx.update(jax.grad(loss)(params), tx.init(params), params)
    trained = optax.apply_updates(params, updates)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), params, trained)
    by_path = {jax.tree_util.keystr(p): x for p, x in jax.tree.leaves_with_path(changed)}
    assert {"bias" in path for path, moved in by_path.items() if moved} == {True}


class Normalized(nn.Module):
    """The layer is named here, so that its parameters are beside those of the normalization."""

    @nn.compact
    def __call__(self, x):
        return nn.WeightNorm(linen_layer(name="conv"), variable_filter={"weights"})(x)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            nn.WeightNorm(linen_layer(), variable_filter={"weights"}),
            {"layer_instance": OWN, "layer_instance/weights/scale": WEIGHTS},
        ),
        (
            nn.WeightNorm(linen_layer(), variable_filter=None),
            {
                "layer_instance": OWN,
                "layer_instance/weights/scale": WEIGHTS,
                "layer_instance/bias/scale": BIAS,
            },
        ),
        (
            nn.WeightNorm(linen_layer(), variable_filter={"weights"}, use_scale=False),
            {"layer_instance": OWN},
        ),
        (
            nn.WeightNorm(nn.Sequential([linen_layer(), nn.Dense(4)]), variable_filter={"e"}),
            {
                "layer_instance": {"layers_0": OWN, "layers_1": DENSE},
                "layer_instance/layers_0/weights/scale": WEIGHTS,
                "layer_instance/layers_0/bias/scale": BIAS,
                "layer_instance/layers_1/kernel/scale": (1.0, 1.0),
                "layer_instance/layers_1/bias/scale": (1.0, 1.0),
            },
        ),
        (Normalized(), {"conv": OWN, "WeightNorm_0": {"conv/weights/scale": WEIGHTS}}),
    ],
    ids=["weights", "all", "no scale", "a model", "beside"],
)
def test_the_scale_of_linen_weight_norm_has_the_factors_of_the_weights(model, expected):
    check_linen(model, expected)


def test_the_scale_of_nnx_weight_norm_has_the_factors_of_the_weights():
    model = nnx.WeightNorm(
        nnx_layer(), variable_filter=nnx.PathContains("weights"), rngs=nnx.Rngs(0)
    )
    scales = {("weights",): WEIGHTS}
    # Flax 0.12.8 keeps plain arrays, which nothing trains.
    trains = isinstance(model.scales[("weights",)], nnx.Variable)
    check_nnx(model, {"layer_instance": OWN} | ({"scales": scales} if trains else {}))


def test_spectral_norm():
    check_nnx(nnx.SpectralNorm(nnx_layer(), rngs=nnx.Rngs(0)), {"layer_instance": OWN})


@pytest.mark.parametrize("target", [Block, linen.GroupedConv2D])
def test_map_variables(target):
    options = {} if target is Block else {"filter_size": 3, "num_filters_per_group": 2}
    options |= {} if target is Block else {"num_groups": 2, **OPTIONS}
    mapped = nn.map_variables(target, "params", lambda v: v, lambda v: v, init=True)
    check_linen(mapped(**options), {"conv": OWN, "Dense_0": DENSE} if target is Block else OWN)


def test_parameters_that_are_kept_elsewhere_are_refused():
    class Inner(nn.Module):
        layer: nn.Module

        @nn.compact
        def __call__(self, x):
            params = self.param("inner", lambda key: self.layer.clone().init(key, x)["params"])
            return self.layer.clone().apply({"params": params}, x)

    with pytest.raises(ValueError, match="the factors of 'conv/weights', 'conv/bias' must have a"):
        linen.learnable_factors(Inner(Block(parent=None)), KEY, X)
    default = nn.Sequential([linen.GroupedConv2D(3, 2, 2, padding="same")], parent=None)
    assert linen.learnable_factors(Inner(default), KEY, X).l2 == {
        "inner": {"layers_0": {"weights": 1.0, "bias": 0.0}}
    }


def test_a_layer_that_is_applied_to_constants_has_no_factors():
    variables = Block().init(KEY, X)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(Block(parent=None).apply(variables, x))

    check_linen(Model(), {"Dense_0": DENSE})


def test_layers_that_share_a_learnable_must_agree():
    model = nnx.Dict(a=nnx_layer(), b=nnx_layer())
    model.b.weights = model.a.weights
    check_nnx(model, {"a": OWN, "b": {"bias": BIAS}})
    other = nnx.Dict(a=nnx_layer(), b=nnx_layer(weight_learn_rate_factor=0.0))
    other.b.weights = other.a.weights
    with pytest.raises(ValueError, match=r"share the learnable 'a/weights' must have the same .*"):
        grouped_nnx.learnable_factors(other)


def test_a_stack_made_by_vmap_within_a_scan():
    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def stack(rngs):
        return Mixed(rngs)

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.stack = stack(rngs)

        def __call__(self, x):
            @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
            def apply(block, x):
                return block(x)

            return apply(self.stack, x)

    model = Model(nnx.Rngs(0))
    assert model.stack.layers[0].weights.shape == (3, 3, 3, 2, 2, 2)
    check_nnx(model, {"stack": MIXED})
    factors = grouped_nnx.learnable_factors(model)
    optimizer = nnx.Optimizer(model, optim.sgdm(0.1, factors=factors), wrt=nnx.Param)
    optimizer.update(model, nnx.grad(lambda model: jnp.mean(model(X)))(model))


def test_abstract_models_and_tree_mode():
    check_nnx(nnx.eval_shape(lambda: Mixed(nnx.Rngs(0))), MIXED)
    with nnx.set_graph_mode(False):
        check_nnx(Mixed(nnx.Rngs(0)), MIXED)
