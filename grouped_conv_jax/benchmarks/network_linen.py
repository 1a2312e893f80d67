"""The benchmark networks in Flax Linen, and their training step."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from grouped_conv_jax.benchmarks import networks
from grouped_conv_jax.benchmarks.networks import Activation, Block, Layer, Network

_ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    None: lambda x: x,
    "relu": nn.relu,
    "relu6": nn.relu6,
}


class _Layer(nn.Module):
    layer: Layer
    convolve: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layer = self.layer
        x = nn.Conv(
            layer.filters,
            (layer.filter_size,) * 2,
            layer.stride,
            padding=layer.filter_size // 2,
            feature_group_count=layer.groups,
            use_bias=False,
            conv_general_dilated=self.convolve,
        )(x)
        x = nn.BatchNorm(use_running_average=False)(x)
        return _ACTIVATIONS[layer.activation](x)


class _Block(nn.Module):
    block: Block
    convolve: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for layer in self.block.layers:
            y = _Layer(layer, self.convolve)(y)
        if isinstance(self.block.shortcut, Layer):
            y = y + _Layer(self.block.shortcut, self.convolve)(x)
        elif self.block.shortcut == "identity":
            y = y + x
        return _ACTIVATIONS[self.block.activation](y)


class LinenNetwork(nn.Module):
    """Maps images ``(B, H, W, 3)`` to logits; every ``nn.Conv`` calls ``convolve``."""

    network: Network
    convolve: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the logits ``(B, classes)``, normalized with the statistics of the batch."""
        x = _Layer(self.network.stem, self.convolve)(x)
        if self.network.pooled_stem:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for block in self.network.blocks:
            x = _Block(block, self.convolve)(x)
        return nn.Dense(networks.CLASSES)(jnp.mean(x, (1, 2)))


def training_step(
    network: Network, convolve: Callable[..., jax.Array], images: jax.Array
) -> tuple[Callable[..., Any], Any]:
    """Returns ``step(state, images, labels) -> (state, loss)`` and the initial state."""
    model = LinenNetwork(network, convolve)
    optimizer = optax.sgd(networks.LEARNING_RATE, networks.MOMENTUM)
    variables = jax.jit(model.init)(jax.random.key(0), images)

    def step(state: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, jax.Array]:
        params, statistics, moments = state

        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            logits, updated = model.apply(
                {"params": params, "batch_stats": statistics}, images, mutable="batch_stats"
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.mean(losses), updated["batch_stats"]

        (loss, statistics), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), statistics, moments), loss

    params = variables["params"]
    return step, (params, variables["batch_stats"], optimizer.init(params))
