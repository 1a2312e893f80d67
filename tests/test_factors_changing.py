"""Changing the factors of a learnable, of a layer, or of what a pattern matches."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from grouped_conv_jax import optim
from grouped_conv_jax.nnx import learnable_factors
from grouped_conv_jax.optim import Factors, set_factor

FACTORS = Factors(
    learn_rate={"conv": {"weights": 1.0, "bias": 1.0}, "head": [{"kernel": 1.0}]},
    l2={"conv": {"weights": 1.0, "bias": 0.0}, "head": [{"kernel": 1.0}]},
)
PATHS = [
    "bias",
    "body/block_0/conv/bias",
    "body/block_0/conv/weights",
    "body/block_1/conv/bias",
    "body/block_1/norm/scale",
    "body2/bias",
    "head/bias",
    "head/body",
    "head/kernel",
]


def test_only_what_is_named_changes():
    assert set_factor(FACTORS, "conv/weights", learn_rate=0.25) == Factors(
        learn_rate={"conv": {"weights": 0.25, "bias": 1.0}, "head": [{"kernel": 1.0}]},
        l2=FACTORS.l2,
    )
    assert set_factor(FACTORS, "head/0/kernel", l2=2) == Factors(
        learn_rate=FACTORS.learn_rate,
        l2={"conv": {"weights": 1.0, "bias": 0.0}, "head": [{"kernel": 2.0}]},
    )
    both = set_factor(FACTORS, "conv/bias", learn_rate=0, l2=3.0)
    assert (both.learn_rate["conv"]["bias"], both.l2["conv"]["bias"]) == (0.0, 3.0)


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("bias", ["bias"]),
        ("body", [path for path in PATHS if path.startswith("body/")]),
        ("body/**", [path for path in PATHS if path.startswith("body/")]),
        ("body/block_1", ["body/block_1/conv/bias", "body/block_1/norm/scale"]),
        ("body/block_0/conv/weights", ["body/block_0/conv/weights"]),
        ("**/bias", [path for path in PATHS if path.split("/")[-1] == "bias"]),
        ("body/**/bias", ["body/block_0/conv/bias", "body/block_1/conv/bias"]),
        ("**/conv/**", [path for path in PATHS if "/conv/" in path]),
        ("**/conv", [path for path in PATHS if "/conv/" in path]),
        ("**", PATHS),
        ("body*", [path for path in PATHS if path.startswith("body")]),
        ("*/bias", ["body2/bias", "head/bias"]),
        ("body/block_*/norm", ["body/block_1/norm/scale"]),
        ("head/b*", ["head/bias", "head/body"]),
        ("*", PATHS),
    ],
)
def test_a_layer_and_a_pattern_mean_all_that_they_match(pattern, matched):
    tree = {}
    for path in PATHS:
        *parents, leaf = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = 1.0
    changed = set_factor(Factors(learn_rate=tree, l2=tree), pattern, learn_rate=0.0).learn_rate
    leaves = jax.tree.leaves_with_path(changed)
    zeros = [jax.tree_util.keystr(path, simple=True, separator="/") for path, x in leaves if x == 0]
    assert zeros == sorted(matched)


@pytest.mark.parametrize("name", ["a.b", "a+", "w[0]", "(x)", "a\nb"])
def test_only_stars_are_special(name):
    factors = Factors(learn_rate={name: 1.0, "aab": 1.0}, l2={name: 1.0, "aab": 1.0})
    assert set_factor(factors, name, l2=0).l2 == {name: 0.0, "aab": 1.0}


def test_the_factors_given_stay_as_they_are():
    set_factor(FACTORS, "conv", learn_rate=0.0, l2=0.0)
    assert FACTORS.learn_rate["conv"]["weights"] == FACTORS.l2["conv"]["weights"] == 1.0


@pytest.mark.parametrize(
    "path",
    [
        "conv/kernel",
        "/conv/weights",
        "conv/",
        "head/1/kernel",
        "",
        "con",
        "onv",
        "conv/weights/**",
        "**/scale",
        "conv/*/weights",
        "**conv/",
    ],
)
def test_an_unknown_path_is_an_error_that_names_the_paths_there_are(path):
    with pytest.raises(KeyError) as error:
        set_factor(FACTORS, path, learn_rate=0.5)
    assert error.value.args == (
        f"no learnable at {path!r}; there are 'conv/bias', 'conv/weights', 'head/0/kernel'",
    )


@pytest.mark.parametrize("name", ["learn_rate", "l2"])
@pytest.mark.parametrize(
    ("value", "kind"),
    [(-0.5, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)],
)
def test_bad_factors_are_refused(name, value, kind):
    with pytest.raises(kind) as error:
        set_factor(FACTORS, "conv/bias", **{name: value})
    assert str(error.value) == f"{name} must be a nonnegative finite number, got {value!r}"


def test_a_call_that_would_change_nothing_is_refused():
    with pytest.raises(ValueError, match="learn_rate or l2 must be given, got None for both"):
        set_factor(FACTORS, "conv/bias")
    with pytest.raises(TypeError, match=r"factors must be the Factors .*, got dict"):
        set_factor({}, "conv/bias", l2=1.0)
    with pytest.raises(TypeError, match=r"path must be a string, got \('conv', 'bias'\)"):
        set_factor(FACTORS, ("conv", "bias"), l2=1.0)


def test_one_line_freezes_a_part_of_a_model_with_layers_of_every_kind():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.body = nnx.Sequential(
                nnx.Conv(2, 2, (1, 1), rngs=rngs), nnx.BatchNorm(2, rngs=rngs)
            )
            self.head = nnx.Linear(2, 1, rngs=rngs)

    model = Model(nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    factors = set_factor(learnable_factors(model), "body/**", learn_rate=0)
    optimizer = nnx.Optimizer(model, optim.sgdm(0.1, factors=factors), wrt=nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.ones_like, before))
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), before, nnx.state(model, nnx.Param))
    assert {
        "/".join(map(str, path)): bool(leaf.get_value())
        for path, leaf in nnx.to_flat_state(changed)
    } == {
        "body/layers/0/bias": False,
        "body/layers/0/kernel": False,
        "body/layers/1/bias": False,
        "body/layers/1/scale": False,
        "head/bias": True,
        "head/kernel": True,
    }
