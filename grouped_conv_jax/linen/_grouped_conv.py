"""Grouped convolution as a Linen module."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from grouped_conv_jax._layer import (
    FIELDS,
    Groups,
    Hyperparameters,
    IntPair,
    ReadOnlyProperties,
    check_learnable,
)
from grouped_conv_jax.initializers import Initializer


class GroupedConv2D(nn.Module, ReadOnlyProperties):
    """Convolves each group of channels with filters of its own.

    Letters: ``B`` batch, ``H`` height, ``W`` width, ``C`` channels per group, ``F`` filters per
    group, ``G`` groups. Parameters: ``weights`` ``(filter height, filter width, C, F, G)`` and
    ``bias`` ``(1, 1, F, G)``.

    Attributes:
        filter_size: in pixels: a positive integer for both directions, or (vertical, horizontal).
        num_filters_per_group: ``F``.
        num_groups: ``G``, which divides the number of input channels, or ``"channel-wise"`` for as
            many groups as the input has channels.
        stride: step between outputs, in pixels, one number or two.
        dilation_factor: distance between filter taps, in pixels, one number or two.
        padding: ``"same"``, ``"valid"``, ``p``, ``(a, b)``, ``(t, b, l, r)`` or
            ``((t, b), (l, r))``, in pixels.
        padding_value: a number, ``"symmetric-include-edge"``, ``"symmetric-exclude-edge"`` or
            ``"replicate"``.
        num_channels_per_group: ``C``, checked against the input, or ``"auto"``.
        use_bias: whether to add a bias.
        weights_initializer: ``"glorot"``, ``"he"``, ``"narrow-normal"``, ``"zeros"``, ``"ones"``,
            or a callable ``(key, shape, dtype)``.
        bias_initializer: ``"zeros"``, ``"ones"``, ``"narrow-normal"``, or a callable.
        initial_weights: array to start from; the initializer is then not used.
        initial_bias: likewise.
        weight_learn_rate_factor: multiplies the solver's learning rate for the weights; read by
            :func:`grouped_conv_jax.linen.learnable_factors`, as are the next three.
        bias_learn_rate_factor: likewise for the bias.
        weight_l2_factor: multiplies the solver's L2 regularization for the weights.
        bias_l2_factor: likewise for the bias.
        data_format: one letter an axis, as in :func:`grouped_conv_jax.grouped_conv2d`.
        dtype: of the computation; ``None`` for the promoted dtype of input and parameters.
        param_dtype: of the parameters.
        precision: as in ``jax.lax.conv_general_dilated``.
        implementation: as in :func:`grouped_conv_jax.grouped_conv2d`.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument has a wrong value; at the first call, the input does not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from grouped_conv_jax.linen import GroupedConv2D
        >>> depthwise = GroupedConv2D(3, 1, "channel-wise", padding="same", stride=2)
        >>> x = jnp.ones((8, 32, 32, 16))
        >>> variables = depthwise.init(jax.random.key(0), x)
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'bias': (1, 1, 1, 16), 'weights': (3, 3, 1, 1, 16)}}
        >>> depthwise.apply(variables, x).shape
        (8, 16, 16, 16)
    """

    filter_size: IntPair
    num_filters_per_group: int
    num_groups: Groups
    stride: IntPair = 1
    dilation_factor: IntPair = 1
    padding: Any = 0
    padding_value: float | str = 0
    num_channels_per_group: int | str = "auto"
    use_bias: bool = True
    weights_initializer: str | Initializer = "glorot"
    bias_initializer: str | Initializer = "zeros"
    initial_weights: ArrayLike | None = None
    initial_bias: ArrayLike | None = None
    weight_learn_rate_factor: float = 1.0
    bias_learn_rate_factor: float = 1.0
    weight_l2_factor: float = 1.0
    bias_l2_factor: float = 0.0
    data_format: str = "BSSC"
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: Any = None
    implementation: str | None = None

    def __post_init__(self) -> None:
        checked = Hyperparameters.of(self)
        for name in FIELDS:
            object.__setattr__(self, name, getattr(checked, name))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: ArrayLike) -> jax.Array:
        """Returns ``(B, H', W', F*G)`` for ``x`` ``(B, H, W, C*G)``."""
        layer = Hyperparameters.held_by(self).resolve_for(x)
        weights = self._learnable("weights", layer.initialize_weights, layer.weights_shape)
        bias = None
        if self.use_bias:
            bias = self._learnable("bias", layer.initialize_bias, layer.bias_shape)
        return layer(x, weights, bias)

    def _learnable(self, name: str, initialize: Initializer, shape: tuple[int, ...]) -> jax.Array:
        # Flax would report another shape with an error of its own kind.
        if self.has_variable("params", name):
            held = nn.meta.unbox(self.get_variable("params", name))
            check_learnable(name, held, shape)
        parameter = self.param(name, initialize, shape, self.param_dtype)
        check_learnable(name, parameter, shape)
        return parameter
