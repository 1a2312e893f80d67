"""Training steps of whole networks: what they are made of, and what is recorded of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grouped_conv_jax.benchmarks import (
    network_linen,
    network_nnx,
    network_torch,
    networks,
    training,
)
from grouped_conv_jax.benchmarks.harness import Settings
from grouped_conv_jax.benchmarks.networks import Block, Layer, Network
from grouped_conv_jax.benchmarks.pytorch import Torch

QUICK = Settings(rounds=1, seconds=0.001)
TINY = Network(
    Layer(3, 4, 3, 2, activation="relu6"),
    True,
    (
        Block((Layer(4, 4, 3, groups=4),), "identity", "relu"),
        Block((Layer(4, 8, 3, 2, groups=4),), Layer(4, 8, 1, 2)),
    ),
    8,
)


@pytest.fixture(name="torch")
def _torch():
    pytest.importorskip("torch", reason="PyTorch is a contender only where it is installed")
    return Torch(1)


def count_linen(network):
    model = network_linen.LinenNetwork(network, jax.lax.conv_general_dilated)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
    ("name", "parameters"),
    # As published for the models in torchvision.
    [("mobilenet-v2", 3_504_872), ("resnext-50", 25_028_904)],
)
def test_network_has_as_many_parameters_as_published(name, parameters):
    assert count_linen(networks.NETWORKS[name]) == parameters


def test_torch_builds_the_same_networks(torch):
    for network in (*networks.NETWORKS.values(), TINY):
        with torch.module.device("meta"):
            model = network_torch.build(torch.module, network)
        assert sum(p.numel() for p in model.parameters()) == count_linen(network)


@pytest.mark.parametrize("flax", [network_linen, network_nnx])
def test_training_step_lowers_the_loss_and_updates_statistics(flax):
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    labels = jnp.arange(4)
    step, start = flax.training_step(TINY, jax.lax.conv_general_dilated, images)
    step = jax.jit(step)
    state, losses = start, []
    for _ in range(5):
        state, loss = step(state, images, labels)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    for before, after in zip(*map(jax.tree.leaves, (start[1], state[1])), strict=True):
        assert not np.array_equal(before, after)


@pytest.fixture(name="tiny_network")
def _tiny_network(monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "tiny", TINY)
    return "tiny"


@pytest.mark.slow
def test_training_steps_are_measured_with_and_without_this_package(tiny_network):
    records = training.measure(tiny_network, QUICK, None, 4, 16)
    assert [(record["contender"], record["variant"]) for record in records] == [
        ("ours", "linen"),
        ("lax", "linen"),
        ("ours", "nnx"),
        ("lax", "nnx"),
    ]
    for record in records:
        assert "failure" not in record
        assert record["milliseconds"] > 0
        assert (record["contender"] == "ours") == ("gradient_difference" in record)
    assert all(record.get("gradient_difference", 0) < 1e-3 for record in records)


def test_training_steps_are_measured_in_torch(tiny_network, torch, monkeypatch):
    monkeypatch.setattr(training, "_APIS", {})
    settings = dataclasses.replace(QUICK, against=("torch",))
    records = training.measure(tiny_network, settings, torch, 4, 16)
    assert [record["variant"] for record in records] == list(Torch.layouts)
    assert all(record["milliseconds"] > 0 for record in records)


def test_training_step_with_a_wrong_gradient_fails(tiny_network, monkeypatch):
    class Flax:
        @staticmethod
        def training_step(_network, convolve, _images):
            gradient = 1.0 if convolve is jax.lax.conv_general_dilated else 1.2
            return lambda state, *_: (((), (), state), 0.0), {"weights": jnp.full(3, gradient)}

    monkeypatch.setattr(training, "_APIS", {"linen": Flax})
    ours, lax = training.measure(tiny_network, QUICK, None, 1, 8)
    assert ours["failure"] == "wrong: the gradient differs from lax's by 2.0e-01 of its norm"
    assert "failure" not in lax
