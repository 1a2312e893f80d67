"""Tuning a part of an NNX model: factors for what ``nnx.Optimizer`` gets as ``wrt``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from factor_cases import DENSE, FACTORS, OWN
from flax import nnx

from grouped_conv_jax import optim
from grouped_conv_jax.nnx import GroupedConv2D, learnable_factors


def layer(rngs):
    return GroupedConv2D(4, 3, 2, 2, **FACTORS, rngs=rngs)


class FineTuned(nnx.Module):
    def __init__(self, rngs):
        self.body = layer(rngs)
        self.head = nnx.Sequential(
            layer(rngs),
            nnx.LoRA(4, 2, 4, base_module=nnx.Linear(4, 4, rngs=rngs), rngs=rngs),
        )

    def __call__(self, x):
        return self.head(self.body(x))


LORA = {"lora_a": (1.0, 1.0), "lora_b": (1.0, 1.0)}


@pytest.mark.parametrize(
    ("wrt", "expected"),
    [
        (
            nnx.All(nnx.Param, nnx.PathContains("head")),
            {"head": {"layers": {0: OWN, 1: {"base_module": DENSE} | LORA}}},
        ),
        (nnx.LoRAParam, {"head": {"layers": {1: LORA}}}),
        (
            nnx.Any(nnx.LoRAParam, nnx.PathContains("body")),
            {"body": OWN, "head": {"layers": {1: LORA}}},
        ),
        (nnx.BatchStat, {}),
    ],
    ids=["head", "LoRA", "any", "none"],
)
def test_part_of_a_model_is_tuned(wrt, expected):
    model = FineTuned(nnx.Rngs(0))
    factors = learnable_factors(model, wrt)
    for which, tree in enumerate(factors):
        pairs = {
            path: pair[which] for path, pair in nnx.traversals.flatten_mapping(expected).items()
        }
        assert dict(nnx.to_flat_state(tree)) == pairs
    before = nnx.to_flat_state(jax.tree.map(jnp.copy, nnx.state(model, nnx.Param)))
    tx = optim.sgdm(1.0, 0.0, l2_regularization=0.0, factors=factors)
    optimizer = nnx.Optimizer(model, tx, wrt=wrt)
    optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, wrt)))
    rate = dict(nnx.to_flat_state(factors.learn_rate))
    after = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    for path, leaf in before:
        expected_leaf = leaf.get_value() - rate.get(path, 0.0)
        np.testing.assert_allclose(after[path].get_value(), expected_leaf, rtol=1e-5, atol=1e-6)
