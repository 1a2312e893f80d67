"""The separable network in Linen or NNX, as pure functions of nested dictionaries of arrays."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from grouped_conv_jax import optim
from grouped_conv_jax.layer import _separable_network as parts
from grouped_conv_jax.linen._factors import learnable_factors as linen_factors
from grouped_conv_jax.linen._separable_network import SeparableNetwork as LinenNetwork
from grouped_conv_jax.nnx._factors import learnable_factors as nnx_factors
from grouped_conv_jax.nnx._separable_network import SeparableNetwork as NNXNetwork

Arrays: TypeAlias = Any
"""Nested dictionaries of arrays, for both APIs."""


@dataclasses.dataclass(frozen=True)
class Network:
    """The pure functions and the factors of a network.

    Attributes:
        initialize: maps a seed to parameters and batch statistics.
        logits: maps parameters, batch statistics, images and a mask to logits and updated batch
            statistics. In training, the mask selects the images that count; in inference, it is
            ``None``.
        factors: learning-rate and L2 factors of the layers, with ``FROZEN`` frozen.
    """

    initialize: Callable[[int], tuple[Arrays, Arrays]]
    logits: Callable[[Arrays, Arrays, jax.Array, jax.Array | None], tuple[jax.Array, Arrays]]
    factors: optim.Factors


FROZEN = tuple(f"{convolution}/bias" for convolution in parts.CONVOLUTIONS)
"""Biases that batch normalization cancels, whose gradients are therefore rounding errors."""


def build(
    api: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    implementation: str | None = None,
) -> Network:
    """Builds the network in ``"linen"`` or ``"nnx"`` for images ``(H, W, C)``."""
    builders = {"linen": _build_linen, "nnx": _build_nnx}
    network = builders[api](image_shape, num_classes, implementation)
    factors = network.factors
    for path in FROZEN:
        factors = optim.set_factor(factors, path, learn_rate=0.0)
    return dataclasses.replace(network, factors=factors)


def _build_linen(
    image_shape: tuple[int, int, int], num_classes: int, implementation: str | None
) -> Network:
    model = LinenNetwork(num_classes, implementation=implementation)
    image = jnp.zeros((1, *image_shape), jnp.float32)

    def initialize(seed: int) -> tuple[Arrays, Arrays]:
        variables = jax.jit(model.init)(jax.random.key(seed), image)
        return variables["params"], variables["batch_stats"]

    def logits(
        params: Arrays, batch_stats: Arrays, images: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, Arrays]:
        variables = {"params": params, "batch_stats": batch_stats}
        result: Any
        if mask is None:
            result = model.apply(variables, images, method="logits")
            return result, batch_stats
        result, changed = model.apply(
            variables, images, True, mask, method="logits", mutable=["batch_stats"]
        )
        return result, changed["batch_stats"]

    return Network(initialize, logits, linen_factors(model, jax.random.key(0), image))


def _build_nnx(
    image_shape: tuple[int, int, int], num_classes: int, implementation: str | None
) -> Network:
    height, width, num_channels = image_shape

    def create(seed: int) -> NNXNetwork:
        return NNXNetwork(
            num_channels,
            num_classes,
            (height, width),
            implementation=implementation,
            rngs=nnx.Rngs(seed),
        )

    def arrays(model: NNXNetwork) -> tuple[Arrays, Arrays]:
        params, batch_stats = nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)

    abstract = nnx.eval_shape(lambda: create(0))
    graph = nnx.graphdef(abstract)

    def logits(
        params: Arrays, batch_stats: Arrays, images: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, Arrays]:
        model = nnx.merge(graph, params, batch_stats)
        if mask is None:
            model.eval()
        else:
            model.train()
        return model.logits(images, mask), arrays(model)[1]

    # Compile one program, instead of one for each initializer.
    initialize = jax.jit(lambda seed: arrays(create(seed)), static_argnums=0)
    return Network(initialize, logits, nnx_factors(abstract))
