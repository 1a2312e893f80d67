"""The benchmark networks in Flax NNX, and their training step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from grouped_conv_jax.benchmarks import networks
from grouped_conv_jax.benchmarks.networks import Activation, Block, Layer, Network

_ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    None: lambda x: x,
    "relu": nnx.relu,
    "relu6": nnx.relu6,
}


class _Layer(nnx.Module):
    def __init__(self, layer: Layer, convolve: Callable[..., jax.Array], rngs: nnx.Rngs) -> None:
        self.activation = layer.activation
        self.conv = nnx.Conv(
            layer.channels,
            layer.filters,
            (layer.filter_size,) * 2,
            layer.stride,
            padding=layer.filter_size // 2,
            feature_group_count=layer.groups,
            use_bias=False,
            conv_general_dilated=convolve,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(layer.filters, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return _ACTIVATIONS[self.activation](self.norm(self.conv(x)))


class _Block(nnx.Module):
    def __init__(self, block: Block, convolve: Callable[..., jax.Array], rngs: nnx.Rngs) -> None:
        self.activation = block.activation
        self.layers = nnx.List([_Layer(layer, convolve, rngs) for layer in block.layers])
        self.adds_input = block.shortcut == "identity"
        self.shortcut = (
            _Layer(block.shortcut, convolve, rngs) if isinstance(block.shortcut, Layer) else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for layer in self.layers:
            y = layer(y)
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        elif self.adds_input:
            y = y + x
        return _ACTIVATIONS[self.activation](y)


class NNXNetwork(nnx.Module):
    """Maps images ``(B, H, W, 3)`` to logits; every ``nnx.Conv`` calls ``convolve``."""

    def __init__(
        self, network: Network, convolve: Callable[..., jax.Array], rngs: nnx.Rngs
    ) -> None:
        self.pooled_stem = network.pooled_stem
        self.stem = _Layer(network.stem, convolve, rngs)
        self.blocks = nnx.List([_Block(block, convolve, rngs) for block in network.blocks])
        self.dense = nnx.Linear(network.features, networks.CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the logits ``(B, classes)``, normalized with the statistics of the batch."""
        x = self.stem(x)
        if self.pooled_stem:
            x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x)
        return self.dense(jnp.mean(x, (1, 2)))


def training_step(
    network: Network, convolve: Callable[..., jax.Array], images: jax.Array
) -> tuple[Callable[..., Any], Any]:
    """Returns ``step(state, images, labels) -> (state, loss)`` and the initial state."""
    del images
    optimizer = optax.sgd(networks.LEARNING_RATE, networks.MOMENTUM)

    @jax.jit
    def initialize() -> tuple[Any, Any]:
        _, *states = nnx.split(NNXNetwork(network, convolve, nnx.Rngs(0)), nnx.Param, ...)
        return states[0], states[1]

    params, rest = initialize()
    structure = nnx.graphdef(nnx.eval_shape(lambda: NNXNetwork(network, convolve, nnx.Rngs(0))))

    def step(state: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, jax.Array]:
        params, rest, moments = state

        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            model = nnx.merge(structure, params, rest, copy=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(model(images), labels)
            return jnp.mean(losses), nnx.state(model, nnx.Not(nnx.Param))

        (loss, rest), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), rest, moments), loss

    return step, (params, rest, optimizer.init(params))
