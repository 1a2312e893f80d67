"""Weights of whole PyTorch models, there and back: the outputs are PyTorch's."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from grouped_conv_jax import linen
from grouped_conv_jax import nnx as gnnx
from grouped_conv_jax.benchmarks import network_nnx, network_torch, networks
from grouped_conv_jax.convert import from_torch_state, to_torch_state

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


class Small(nn.Module):
    """Layers of Flax and of this package."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (3, 3), padding=1, feature_group_count=2, name="first")(x)
        x = nn.BatchNorm(not train, epsilon=1e-5, name="norm")(x)
        x = nn.relu(linen.GroupedConv2D(3, 2, 4, padding=1, name="grouped")(x))
        return nn.Dense(5, name="dense")(x.mean((1, 2)))


def small_torch():
    torch.manual_seed(0)
    layers = torch.nn.ModuleDict(
        {
            "first": torch.nn.Conv2d(4, 8, 3, padding=1, groups=2),
            "norm": torch.nn.BatchNorm2d(8),
            "grouped": torch.nn.Conv2d(8, 8, 3, padding=1, groups=4),
            "dense": torch.nn.Linear(8, 5),
        }
    )
    for name, value in layers.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape) + ("var" in name))
    return layers


def call_torch(layers, x):
    with torch.no_grad():
        y = layers["norm"].eval()(layers["first"](x))
        return layers["dense"](layers["grouped"](y).relu().mean((2, 3)))


IMAGES = np.random.default_rng(0).standard_normal((2, 9, 8, 4)).astype(np.float32)


def test_linen_gives_pytorch_s_outputs_and_its_state_goes_back():
    layers = small_torch()
    state_dict = layers.state_dict()
    shapes = jax.eval_shape(Small().init, jax.random.key(0), IMAGES)
    variables = from_torch_state(state_dict, shapes)
    expected = call_torch(layers, torch.from_numpy(np.moveaxis(IMAGES, -1, 1)))
    np.testing.assert_allclose(Small().apply(variables, IMAGES), expected, rtol=1e-4, atol=1e-4)
    back = to_torch_state(variables)
    assert set(back) == set(state_dict)
    for name, array in state_dict.items():
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize("name", ["mobilenet-v2", "resnext-50"])
def test_networks_give_pytorch_s_outputs(name):
    network = networks.NETWORKS[name]
    torch.manual_seed(1)
    theirs = network_torch.build(torch, network)

    def names(path):
        """``blocks/3/layers/1/conv`` is ``4.0.layers.1.0`` there: residuals are wrapped."""
        where, _, kind = path.rpartition("/")
        last = {"conv": ".0", "norm": ".1"}
        first = 2 if network.pooled_stem else 1
        if path == "dense":
            return str(first + len(network.blocks) + 2)
        if where == "stem":
            return f"0{last[kind]}"
        block, layer = re.fullmatch(r"blocks/(\d+)/(.*)", where).groups()
        residual = network.blocks[int(block)].shortcut != "none"
        layer = layer.replace("/", ".")
        layer = layer if residual else layer.removeprefix("layers.")
        return f"{first + int(block)}.0.{layer}{last[kind]}"

    model = nnx.eval_shape(
        lambda: network_nnx.NNXNetwork(network, jax.lax.conv_general_dilated, nnx.Rngs(0))
    )
    state = from_torch_state(theirs.state_dict(), model, names)
    nnx.update(model, state)
    model.eval()
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(np.moveaxis(images, -1, 1)).contiguous())
    np.testing.assert_allclose(nnx.jit(model)(images), expected, rtol=1e-4, atol=1e-4)


def test_the_nnx_layer_of_this_package():
    conv = torch.nn.Conv1d(6, 4, 5, groups=2)
    layer = gnnx.GroupedConv1D(6, 5, 2, 2, rngs=nnx.Rngs(0))
    nnx.update(layer, from_torch_state(conv.state_dict(), layer))
    x = np.random.default_rng(0).standard_normal((2, 12, 6)).astype(np.float32)
    with torch.no_grad():
        expected = np.moveaxis(conv(torch.from_numpy(np.moveaxis(x, -1, 1))).numpy(), 1, -1)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)
    for name, array in to_torch_state(layer).items():
        np.testing.assert_array_equal(array, conv.state_dict()[name])


SHAPES = {"params": {"conv": {"kernel": jax.ShapeDtypeStruct((3, 3, 2, 6), jnp.float32)}}}


@pytest.mark.parametrize(
    ("state_dict", "message"),
    [
        ({}, "must hold 'conv.weight' for 'params/conv/kernel' of the model, got"),
        ({"conv.weight": np.ones((6, 2, 3, 3)), "conv.bias": 1}, r"got \['conv.bias'\] unused"),
        ({"conv.weight": np.ones((6, 3, 3, 3))}, r"shape \(3, 3, 2, 6\), got one of \(3, 3, 3, 6"),
    ],
)
def test_what_does_not_fit_is_named(state_dict, message):
    with pytest.raises(ValueError, match=message):
        from_torch_state(state_dict, SHAPES)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="model must be an NNX module or the variables"):
        from_torch_state({}, {"conv": {"kernel": np.ones(3)}})


def test_a_layer_that_is_not_known_is_named():
    with pytest.raises(ValueError, match="got 'params/embed/embedding'"):
        from_torch_state({}, {"params": {"embed": {"embedding": np.ones((3, 2))}}})


def test_two_layers_of_one_name_are_refused():
    variables = {"params": {name: {"kernel": np.ones((2, 3))} for name in "ab"}}
    with pytest.raises(ValueError, match=r"got 'same\.weight' twice"):
        to_torch_state(variables, lambda _: "same")
