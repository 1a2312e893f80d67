"""Batch-normalization statistics of the whole training set ("population" statistics)."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from grouped_conv_jax.matlab import _linen_modules
from grouped_conv_jax.matlab._batch_normalization import BatchNormalizationLayer
from grouped_conv_jax.matlab._layer_array import LayerArray
from grouped_conv_jax.matlab._simple_layers import DropoutLayer


def with_statistics(
    network: LayerArray, variables: Mapping[str, Any], batches: Iterable[npt.NDArray[Any]]
) -> dict[str, Any]:
    """Replaces the running statistics of batch normalizations by those of all batches together.

    Args:
        network: the layers.
        variables: variables of the network's Linen module.
        batches: batches of images ``(B, H, W, C)``, all of one size.
    """
    names = [layer.Name for layer in network if isinstance(layer, BatchNormalizationLayer)]
    if not names:
        return dict(variables)
    module = _with_batch_statistics(network)
    found = [_statistics(module, variables, batch.astype(np.float32)) for batch in batches]
    merged = {name: _merge([statistics[name] for statistics in found]) for name in names}
    return {**variables, "batch_stats": {**variables["batch_stats"], **merged}}


def _with_batch_statistics(network: LayerArray) -> _linen_modules.Network:
    """Returns a module whose running statistics are those of the last batch, without dropout."""
    made = LayerArray(network)
    for layer in made:
        if isinstance(layer, BatchNormalizationLayer):
            layer.MeanDecay = layer.VarianceDecay = 1
        if isinstance(layer, DropoutLayer):
            layer.Probability = 0
    return made.to_linen()


@functools.partial(jax.jit, static_argnums=0)
def _statistics(
    module: _linen_modules.Network, variables: Mapping[str, Any], images: jax.Array
) -> dict[str, Any]:
    _, changed = module.apply(variables, images, True, method="logits", mutable=["batch_stats"])
    return changed["batch_stats"]


def _merge(batches: list[dict[str, jax.Array]]) -> dict[str, jax.Array]:
    """Combines means and variances of batches of equal size."""
    mean = np.mean([np.asarray(batch["mean"], np.float64) for batch in batches], axis=0)
    within = np.mean([np.asarray(batch["var"], np.float64) for batch in batches], axis=0)
    between = np.var([np.asarray(batch["mean"], np.float64) for batch in batches], axis=0)
    return {"mean": jnp.float32(mean), "var": jnp.float32(within + between)}
