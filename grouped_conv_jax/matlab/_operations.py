"""Pure functions for the layers other than convolutions."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

Pair: TypeAlias = tuple[int, int]

STATISTICS = {
    "none": (),
    "zerocenter": ("Mean",),
    "zscore": ("Mean", "StandardDeviation"),
    "rescale-symmetric": ("Min", "Max"),
    "rescale-zero-one": ("Min", "Max"),
}
"""The image statistics that each normalization uses."""


def normalize(
    images: jax.Array,
    input_size: tuple[int, ...],
    normalization: Any,
    statistics: Mapping[str, Any],
) -> jax.Array:
    """Normalizes images by statistics of the training images.

    Args:
        images: ``(B, H, W, C)``.
        input_size: ``(H, W, C)``.
        normalization: a key of `STATISTICS`, or a function of the images.
        statistics: the arrays that the normalization uses, by name.
    """
    if images.shape[1:] != input_size:
        raise ValueError(f"images must be of InputSize={input_size}, got {images.shape[1:]}")
    if callable(normalization):
        return normalization(images)
    if normalization == "none":
        return images
    statistics = {name: array[jnp.newaxis] for name, array in statistics.items()}
    if "Min" in statistics:
        low, high = statistics["Min"], statistics["Max"]
        # Avoid 0/0: a constant pixel maps to the lower end.
        rescaled = (images - low) / jnp.where(high == low, 1, high - low)
        return 2 * rescaled - 1 if normalization == "rescale-symmetric" else rescaled
    centered = images - statistics["Mean"]
    if normalization == "zerocenter":
        return centered
    deviation = statistics["StandardDeviation"]
    return centered / jnp.where(deviation == 0, 1, deviation)


def flatten(x: jax.Array) -> jax.Array:
    """Flattens the activations of each image in MATLAB's column-major order.

    Args:
        x: ``(B, H, W, C)``, or ``(B, F)``, which is returned unchanged.

    Returns:
        ``(B, H*W*C)``, with the height varying fastest, then the width.

    Example:
        >>> flatten(jnp.arange(6).reshape(1, 2, 3, 1)).tolist()
        [[0, 3, 1, 4, 2, 5]]
    """
    return x if x.ndim == 2 else x.transpose(0, 3, 2, 1).reshape(x.shape[0], -1)


def unchanged(x: jax.Array) -> jax.Array:
    """Returns its argument."""
    return x


def global_average(x: jax.Array) -> jax.Array:
    """Averages ``(B, H, W, C)`` over height and width; returns ``(B, 1, 1, C)``."""
    _check_is_image(x.shape)
    return x.mean((1, 2), keepdims=True)


def _check_is_image(shape: tuple[int, ...]) -> None:
    if len(shape) != 4:
        raise ValueError(f"x must have the axes (B, H, W, C) to be pooled, got shape {shape}")


@dataclasses.dataclass(frozen=True)
class Pooling:
    """Max or average pooling, hashable for JAX's compilation cache.

    Attributes:
        kind: ``"max"`` or ``"average"``.
        pool: (height, width) of the pooling regions.
        stride: (vertical, horizontal).
        padding: ``"same"`` or (top, bottom, left, right).
        includes_padding: whether averages count padding as zeros.
    """

    kind: str
    pool: Pair
    stride: Pair
    padding: str | tuple[int, int, int, int]
    includes_padding: bool = True

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pools ``(B, H, W, C)``."""
        padding: Any = "SAME"
        if not isinstance(self.padding, str):
            padding = (self.padding[:2], self.padding[2:])
        self._check(x.shape, padding)
        if self.kind == "max":
            return nn.max_pool(x, self.pool, self.stride, padding)
        total = nn.pool(x, 0.0, jax.lax.add, self.pool, self.stride, padding)
        if self.includes_padding:
            return total / math.prod(self.pool)
        pixels = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
        return total / nn.pool(pixels, 0.0, jax.lax.add, self.pool, self.stride, padding)

    def _check(self, shape: tuple[int, ...], padding: Any) -> None:
        _check_is_image(shape)
        if padding == "SAME":
            return
        padded = tuple(n + sum(side) for n, side in zip(shape[1:3], padding, strict=True))
        if any(pool > n for pool, n in zip(self.pool, padded, strict=True)):
            raise ValueError(
                f"PoolSize must be at most the padded image of size {padded}, got {self.pool}"
            )
