"""The channel-wise separable network as a Linen module."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from grouped_conv_jax.layer import _separable_network as parts
from grouped_conv_jax.linen._grouped_conv import GroupedConv2D


class SeparableNetwork(nn.Module):
    """A channel-wise separable network that classifies images.

    The layers are a 3x3 convolution to 32 channels, a channel-wise 3x3 convolution with stride 2
    and a 1x1 convolution to 16 channels, each padded ``"same"`` and followed by batch normalization
    and ReLU; then 2x2 max pooling with stride 2, a fully connected layer and a softmax. All
    convolutions are :class:`GroupedConv2D`.

    Calling the module returns probabilities. The method :meth:`logits` returns the inputs of the
    softmax, for a loss such as ``optax.softmax_cross_entropy``.

    Letters: ``B`` batch, ``H`` height, ``W`` width, ``C`` channels, ``K`` classes.

    Attributes:
        num_classes: ``K``.
        dtype: dtype of the computation; ``None`` for the promoted dtype of input and parameters.
        param_dtype: dtype of the parameters.
        implementation: implementation of the convolutions, as in
            :func:`grouped_conv_jax.grouped_conv2d`.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument has a wrong value or, at the first call, the image is smaller than
            3x3.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from grouped_conv_jax.linen import SeparableNetwork
        >>> network = SeparableNetwork(num_classes=5)
        >>> images = jnp.ones((2, 28, 28, 3))
        >>> variables = network.init(jax.random.key(0), images)
        >>> network.apply(variables, images).shape
        (2, 5)

        Training normalizes by the batch's statistics and updates the running ones:

        >>> logits, changes = network.apply(
        ...     variables, images, train=True, method="logits", mutable=["batch_stats"]
        ... )
        >>> logits.shape, list(changes)
        ((2, 5), ['batch_stats'])
    """

    num_classes: int
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    implementation: str | None = None

    def __post_init__(self) -> None:
        self.num_classes = parts.check_num_classes(self.num_classes)
        super().__post_init__()

    def __call__(self, x: ArrayLike, train: bool = False) -> jax.Array:
        """Returns probabilities ``(B, K)`` for images ``(B, H, W, C)``."""
        return nn.softmax(self.logits(x, train))

    @nn.compact
    def logits(self, x: ArrayLike, train: bool = False, mask: ArrayLike | None = None) -> jax.Array:
        """Returns logits ``(B, K)`` for images ``(B, H, W, C)``.

        Args:
            x: images.
            train: whether the batch normalizations use the batch's statistics and update the
                running ones (collection ``batch_stats``, which must then be mutable).
            mask: booleans ``(B,)``, true for the images that count in the batch's statistics;
                ``None`` counts all.
        """
        dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        parts.check_rank(np.shape(x))
        parts.num_features(np.shape(x)[-3:-1])
        counted = parts.over_pixels(mask)
        y: Any = x
        for name, layer in parts.CONVOLUTIONS.items():
            y = GroupedConv2D(**layer, **dtypes, implementation=self.implementation, name=name)(y)
            norm = nn.BatchNorm(not train, **parts.BATCH_NORM, **dtypes, name=parts.norm_of(name))
            y = nn.relu(norm(y, mask=counted))
        y = nn.max_pool(y, parts.POOL, strides=parts.POOL)
        y = y.reshape(*y.shape[:-3], math.prod(y.shape[-3:]))
        return nn.Dense(
            self.num_classes,
            kernel_init=parts.initialize_fully_connected,
            **dtypes,
            name="fully_connected",
        )(y)
