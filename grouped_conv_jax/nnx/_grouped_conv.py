"""Grouped convolution as an NNX module."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from grouped_conv_jax import _checks
from grouped_conv_jax._layer import (
    FIELDS,
    Groups,
    Hyperparameters,
    IntPair,
    ReadOnlyProperties,
    check_learnable,
)
from grouped_conv_jax.initializers import Initializer


class GroupedConv2D(nnx.Module, ReadOnlyProperties):
    """Convolves each group of channels with filters of its own.

    Letters: ``B`` batch, ``H`` height, ``W`` width, ``C`` channels per group, ``F`` filters per
    group, ``G`` groups. Learnables: ``weights`` ``(filter height, filter width, C, F, G)`` and
    ``bias`` ``(1, 1, F, G)``, or ``None``. The input's channels being known, ``num_groups`` and
    ``num_channels_per_group`` are numbers as soon as the module exists.

    Args:
        num_channels: number of input channels, ``C * G``.
        rngs: where the initializers' keys come from (stream ``params``).

    The other arguments are those of :class:`grouped_conv_jax.linen.GroupedConv2D`, in the same
    order and with the same meaning, and are attributes of the module; ``initial_weights`` and
    ``initial_bias`` are ``None`` there, since the learnables hold them.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument has a wrong value; at a call, the input does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from grouped_conv_jax.nnx import GroupedConv2D
        >>> depthwise = GroupedConv2D(
        ...     16, 3, 1, "channel-wise", padding="same", stride=2, rngs=nnx.Rngs(0)
        ... )
        >>> depthwise.weights.shape, depthwise.num_groups
        ((3, 3, 1, 1, 16), 16)
        >>> depthwise(jnp.ones((8, 32, 32, 16))).shape
        (8, 16, 16, 16)
    """

    def __init__(
        self,
        num_channels: int,
        filter_size: IntPair,
        num_filters_per_group: int,
        num_groups: Groups,
        stride: IntPair = 1,
        dilation_factor: IntPair = 1,
        padding: Any = 0,
        padding_value: float | str = 0,
        num_channels_per_group: int | str = "auto",
        use_bias: bool = True,
        weights_initializer: str | Initializer = "glorot",
        bias_initializer: str | Initializer = "zeros",
        initial_weights: ArrayLike | None = None,
        initial_bias: ArrayLike | None = None,
        weight_learn_rate_factor: float = 1.0,
        bias_learn_rate_factor: float = 1.0,
        weight_l2_factor: float = 1.0,
        bias_l2_factor: float = 0.0,
        data_format: str = "BSSC",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: Any = None,
        implementation: str | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        arguments = locals()
        num_channels = _checks.integer("num_channels", num_channels, 1)
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(f"rngs must be an nnx.Rngs, got {type(rngs).__name__}")
        layer = Hyperparameters(**{name: arguments[name] for name in FIELDS}).resolve(
            num_channels, f"num_channels={num_channels}"
        )
        self.weights = nnx.Param(
            layer.initialize_weights(rngs.params(), layer.weights_shape, layer.param_dtype)
        )
        check_learnable("weights", self.weights.get_value(), layer.weights_shape)
        bias = None
        if layer.use_bias:
            bias = nnx.Param(
                layer.initialize_bias(rngs.params(), layer.bias_shape, layer.param_dtype)
            )
            check_learnable("bias", bias.get_value(), layer.bias_shape)
        self.bias = bias
        # The learnables hold these from here on; kept twice they would go into every state.
        layer = dataclasses.replace(layer, initial_weights=None, initial_bias=None)
        self.num_channels = num_channels
        for name in FIELDS:
            setattr(self, name, getattr(layer, name))

    def __call__(self, x: ArrayLike) -> jax.Array:
        """Returns ``(B, H', W', F*G)`` for ``x`` ``(B, H, W, C*G)``."""
        layer = Hyperparameters.held_by(self).resolve_for(x)
        weights = self.weights.get_value()
        check_learnable("weights", weights, layer.weights_shape)
        bias = None
        if self.bias is not None:
            bias = self.bias.get_value()
            check_learnable("bias", bias, layer.bias_shape)
        return layer(x, weights, bias)
