"""Code shared by the Linen and NNX separable networks: the layers' arguments and sizes."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from grouped_conv_jax import _checks

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "convolution": {
        "filter_size": 3,
        "num_filters_per_group": 32,
        "num_groups": 1,
        "padding": "same",
    },
    "channel_wise": {
        "filter_size": 3,
        "num_filters_per_group": 1,
        "num_groups": "channel-wise",
        "stride": 2,
        "padding": "same",
    },
    "pointwise": {
        "filter_size": 1,
        "num_filters_per_group": 16,
        "num_groups": 1,
        "padding": "same",
    },
}
"""The arguments of the convolutions, in order; batch normalization and ReLU follow each."""

# MATLAB's defaults; Flax's momentum of 0.99 is too slow for epochs of a few dozen steps.
BATCH_NORM: dict[str, Any] = {"momentum": 0.9, "epsilon": 1e-5}
POOL = (2, 2)
initialize_fully_connected = jax.nn.initializers.glorot_uniform()


def norm_of(convolution: str) -> str:
    """The name of the batch normalization that follows a convolution."""
    return f"{convolution}_norm"


def num_features(image_size: tuple[int, ...]) -> int:
    """The number of features after the pooling, for an image of (height, width).

    Raises:
        ValueError: the image is smaller than 3x3.
    """
    height, width = image_size
    if min(height, width) < 3:
        raise ValueError(f"x must have a height and width of at least 3, got {height} x {width}")
    # The strided convolution rounds the size up, the pooling rounds it down.
    last = CONVOLUTIONS["pointwise"]["num_filters_per_group"]
    return ((height + 1) // 2 // 2) * ((width + 1) // 2 // 2) * last


def over_pixels(mask: ArrayLike | None) -> jax.Array | None:
    """Reshapes a mask of images ``(B,)`` to ``(B, 1, 1, 1)``, which broadcasts over pixels."""
    return None if mask is None else jnp.asarray(mask)[..., None, None, None]


def check_rank(shape: tuple[Any, ...]) -> None:
    """Raises ``ValueError`` unless the shape ends with height, width and channels."""
    if len(shape) < 3:
        raise ValueError(f"x must have the axes (..., height, width, channels), got shape {shape}")


def check_num_classes(num_classes: Any) -> int:
    """Returns ``num_classes`` as a positive integer."""
    return _checks.integer("num_classes", num_classes, 1)
