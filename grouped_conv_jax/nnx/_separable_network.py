"""The channel-wise separable network as an NNX module."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from grouped_conv_jax import _checks
from grouped_conv_jax.layer import _separable_network as parts
from grouped_conv_jax.layer._arguments import Sizes
from grouped_conv_jax.nnx._grouped_conv import GroupedConv2D


class SeparableNetwork(nnx.Module):
    """A channel-wise separable network that classifies images.

    The layers are those of :class:`grouped_conv_jax.linen.SeparableNetwork`. They are attributes
    with the names of its parameters: ``convolution``, ``convolution_norm``, ``channel_wise``,
    ``channel_wise_norm``, ``pointwise``, ``pointwise_norm``, ``fully_connected``.

    Calling the module returns probabilities. The method :meth:`logits` returns the inputs of the
    softmax, for a loss such as ``optax.softmax_cross_entropy``. A new module is in training mode:
    it normalizes by the batch's statistics and updates the running ones. ``eval()`` switches to the
    running statistics, and ``train()`` back.

    Letters: ``B`` batch, ``H`` height, ``W`` width, ``C`` channels, ``K`` classes.

    Args:
        num_channels: ``C``.
        num_classes: ``K``.
        image_size: size of the images in pixels: one number for both directions, or
            (height, width); at least 3. The size of the fully connected layer depends on it.
        dtype: dtype of the computation; ``None`` for the promoted dtype of input and parameters.
        param_dtype: dtype of the parameters.
        implementation: implementation of the convolutions, as in
            :func:`grouped_conv_jax.grouped_conv2d`.
        rngs: the source of the initializers' keys (stream ``params``).

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument has a wrong value or, at a call, the images have another size.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from grouped_conv_jax.nnx import SeparableNetwork
        >>> network = SeparableNetwork(3, 5, image_size=28, rngs=nnx.Rngs(0))
        >>> images = jnp.ones((2, 28, 28, 3))
        >>> network.logits(images).shape
        (2, 5)
        >>> network.eval()
        >>> network(images).shape
        (2, 5)
    """

    def __init__(
        self,
        num_channels: int,
        num_classes: int,
        image_size: Sizes = (227, 227),
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        implementation: str | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.num_channels = _checks.integer("num_channels", num_channels, 1)
        self.num_classes = parts.check_num_classes(num_classes)
        self.image_size = _checks.per_axis("image_size", image_size, 2)
        features = parts.num_features(self.image_size)
        dtypes: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        channels = num_channels
        for name, layer in parts.CONVOLUTIONS.items():
            convolution = GroupedConv2D(
                channels, **layer, **dtypes, implementation=implementation, rngs=rngs
            )
            *_, filters, groups = convolution.weights.shape
            channels = filters * groups
            norm = nnx.BatchNorm(channels, **parts.BATCH_NORM, **dtypes, rngs=rngs)
            setattr(self, name, convolution)
            setattr(self, parts.norm_of(name), norm)
        self.fully_connected = nnx.Linear(
            features,
            num_classes,
            kernel_init=parts.initialize_fully_connected,
            **dtypes,
            rngs=rngs,
        )

    def __call__(self, x: ArrayLike) -> jax.Array:
        """Returns probabilities ``(B, K)`` for images ``(B, H, W, C)``."""
        return nnx.softmax(self.logits(x))

    def logits(self, x: ArrayLike, mask: ArrayLike | None = None) -> jax.Array:
        """Returns logits ``(B, K)`` for images ``(B, H, W, C)``.

        Args:
            x: images.
            mask: booleans ``(B,)``, true for the images that count in the batch's statistics;
                ``None`` counts all.
        """
        parts.check_rank(np.shape(x))
        if np.shape(x)[-3:-1] != self.image_size:
            raise ValueError(
                f"x must have images of image_size={self.image_size}, got shape {np.shape(x)}"
            )
        counted = parts.over_pixels(mask)
        y: Any = x
        for name in parts.CONVOLUTIONS:
            norm = getattr(self, parts.norm_of(name))
            y = nnx.relu(norm(getattr(self, name)(y), mask=counted))
        y = nnx.max_pool(y, parts.POOL, strides=parts.POOL)
        return self.fully_connected(y.reshape(*y.shape[:-3], math.prod(y.shape[-3:])))
