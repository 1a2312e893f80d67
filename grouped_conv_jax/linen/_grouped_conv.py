"""Grouped convolution as Linen modules."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
from jax.typing import ArrayLike

from grouped_conv_jax.initializers import Initializer
from grouped_conv_jax.layer import _flax_conv
from grouped_conv_jax.layer._arguments import FIELDS, Arguments, check_names
from grouped_conv_jax.layer._hyperparameters import Hyperparameters, checked
from grouped_conv_jax.layer._properties import ReadOnlyProperties


class GroupedConv(nn.Module, Arguments, ReadOnlyProperties):
    """The base class of grouped convolutions with any number of spatial axes."""

    spatial_axes: ClassVar[int]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        # Linen makes every subclass a dataclass, whose own methods cannot compare or hash arrays.
        cls.__eq__ = Arguments.__eq__  # type: ignore[method-assign]
        cls.__hash__ = Arguments.__hash__  # type: ignore[method-assign]
        construct = cls.__init__

        @functools.wraps(construct)
        def checked_names(self: Any, *arguments: Any, **keywords: Any) -> None:
            check_names(cls.__name__, keywords, [field.name for field in dataclasses.fields(cls)])
            construct(self, *arguments, **keywords)

        cls.__init__ = checked_names  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        hyperparameters = checked(self, self.spatial_axes)
        object.__setattr__(self, "hyperparameters", hyperparameters)
        for name in FIELDS:
            object.__setattr__(self, name, getattr(hyperparameters, name))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: ArrayLike) -> jax.Array:
        """Returns ``(B, *spatial', F*G)`` for ``x`` ``(B, *spatial, C*G)``."""
        layer = self.hyperparameters.resolve_for(x)
        weights = self._learnable(layer, "weights", layer.initialize_weights, layer.weights_shape)
        bias = None
        if self.use_bias:
            bias = self._learnable(layer, "bias", layer.initialize_bias, layer.bias_shape)
        return layer(x, weights, bias)

    @classmethod
    def from_conv(
        cls, conv: nn.Conv, variables: Mapping[str, Any], **arguments: Any
    ) -> tuple[Self, dict[str, Any]]:
        """Converts a ``Conv`` of Flax and its variables to an equivalent layer and its variables.

        Args:
            conv: a ``Conv`` with any number of groups and any padding of Flax.
            variables: the variables of ``conv``, with arrays of any kind.
            **arguments: arguments of the layer that ``conv`` does not have, such as factors.

        Raises:
            TypeError: ``conv`` is not a ``Conv``, or its learnables are boxed with metadata, which
                refers to the axes of Flax's kernel.
            ValueError: ``conv`` has an input dilation, a mask or another number of spatial axes.

        Example:
            >>> import flax.linen as nn, jax, jax.numpy as jnp
            >>> from grouped_conv_jax.linen import GroupedConv2D
            >>> conv, x = nn.Conv(8, (3, 3), feature_group_count=2), jnp.ones((1, 5, 5, 4))
            >>> y, variables = conv.init_with_output(jax.random.key(0), x)
            >>> layer, variables = GroupedConv2D.from_conv(conv, variables)
            >>> variables["params"]["weights"].shape
            (3, 3, 2, 4, 2)
            >>> bool(jnp.allclose(layer.apply(variables, x), y, atol=1e-6))
            True
        """
        given = _flax_conv.arguments_of(conv, cls.spatial_axes)
        given |= {
            "weights_initializer": _flax_conv.FlaxInitializer(conv.kernel_init, "kernel"),
            "bias_initializer": _flax_conv.FlaxInitializer(conv.bias_init, "bias"),
            "name": conv.name,
        }
        params = dict(variables["params"])
        for name, array in params.items():
            if isinstance(array, nn.meta.AxisMetadata):
                raise TypeError(f"{name} must be an array, got {type(array).__name__}; unbox it")
        groups = given["num_groups"]
        weights = {"weights": _flax_conv.to_weights(params["kernel"], groups)}
        if conv.use_bias:
            weights["bias"] = _flax_conv.to_bias(params["bias"], groups, cls.spatial_axes)
        return cls(**given | arguments), {**variables, "params": weights}

    def to_conv(self, variables: Mapping[str, Any]) -> tuple[nn.Conv, dict[str, Any]]:
        """Converts this layer and its variables to an equivalent ``Conv`` and its variables.

        The ``Conv`` takes the fast path, by its argument ``conv_general_dilated``, unless
        ``implementation`` is ``"lax"``.

        Raises:
            ValueError: Flax's ``Conv`` does not support the padding, data format or factors.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from grouped_conv_jax.linen import GroupedConv1D
            >>> layer = GroupedConv1D(4, 1, "channel-wise", padding="causal")
            >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 9, 3)))
            >>> conv, variables = layer.to_conv(variables)
            >>> conv.padding, conv.feature_group_count, variables["params"]["kernel"].shape
            ('CAUSAL', 3, (4, 1, 3))
        """
        params = nn.meta.unbox(variables["params"])
        *_, filters, groups = params["weights"].shape
        layer = self.hyperparameters.resolve(
            params["weights"].shape[-3] * groups, f"weights of shape {params['weights'].shape}"
        )
        learnables = {"kernel": _flax_conv.to_kernel(params["weights"])}
        if self.use_bias:
            learnables["bias"] = _flax_conv.to_vector(params["bias"])
        arguments = _flax_conv.conv_arguments(layer)
        conv = nn.Conv(filters * groups, **arguments, name=self.name, parent=None)
        return conv, {**variables, "params": learnables}

    def _learnable(
        self, layer: Hyperparameters, name: str, initialize: Initializer, shape: tuple[int, ...]
    ) -> jax.Array:
        # This precedes Flax's own check, whose error names neither the rule nor the axes.
        if self.has_variable("params", name):
            layer.check_learnable(name, nn.meta.unbox(self.get_variable("params", name)))
        elif self.has_variable("params", "kernel"):
            raise ValueError(
                "params must hold weights, got the kernel of a Conv of Flax; "
                f"{type(self).__name__}.from_conv or convert.from_hwio converts it"
            )
        parameter = self.param(name, initialize, shape, self.param_dtype)
        layer.check_learnable(name, parameter)
        return parameter


class GroupedConv2D(GroupedConv):
    """Convolves each group of channels with its own filters.

    Letters: ``B`` batch, ``H`` height, ``W`` width, ``C`` channels per group, ``F`` filters per
    group, ``G`` groups. Parameters: ``weights`` ``(filter height, filter width, C, F, G)`` and
    ``bias`` ``(1, 1, F, G)``.

    Attributes:
        filter_size: size of the filters in pixels: a positive integer for both directions, or
            (vertical, horizontal).
        num_filters_per_group: ``F``.
        num_groups: ``G``, which divides the number of input channels, or ``"channel-wise"`` for as
            many groups as the input has channels.
        stride: step between outputs, in pixels, one number or two.
        dilation_factor: distance between filter taps, in pixels, one number or two.
        padding: ``"same"``, ``"valid"``, ``p``, ``(a, b)``, ``(t, b, l, r)`` or
            ``((t, b), (l, r))``, in pixels.
        padding_value: a number, ``"symmetric-include-edge"``, ``"symmetric-exclude-edge"``,
            ``"replicate"`` or ``"circular"``.
        num_channels_per_group: ``C``, checked against the input, or ``"auto"``.
        use_bias: whether to add a bias.
        weights_initializer: ``"glorot"``, ``"he"``, ``"narrow-normal"``, ``"zeros"``, ``"ones"``,
            or a callable ``(key, shape, dtype)``.
        bias_initializer: ``"zeros"``, ``"ones"``, ``"narrow-normal"``, or a callable.
        initial_weights: initial values of ``weights``, in place of the initializer.
        initial_bias: initial values of ``bias``, likewise.
        weight_learn_rate_factor: factor of the learning rate for the weights. Like the next three,
            it takes effect through :func:`grouped_conv_jax.linen.learnable_factors`.
        bias_learn_rate_factor: factor of the learning rate for the bias.
        weight_l2_factor: factor of the L2 regularization for the weights.
        bias_l2_factor: factor of the L2 regularization for the bias.
        data_format: one letter per axis, as in :func:`grouped_conv_jax.grouped_conv2d`.
        dtype: dtype of the computation; ``None`` for the promoted dtype of input and parameters.
        param_dtype: dtype of the parameters.
        precision: as in ``jax.lax.conv_general_dilated``.
        implementation: as in :func:`grouped_conv_jax.grouped_conv2d`.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument has a wrong value or, at the first call, the input does not fit.

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

    spatial_axes: ClassVar[int] = 2
    data_format: str = "BSSC"


class GroupedConv1D(GroupedConv):
    """:class:`GroupedConv2D` in one spatial dimension.

    With the same letters and ``L`` for the length, ``x`` is ``(B, L, C*G)``, ``weights``
    ``(filter size, C, F, G)`` and ``bias`` ``(1, F, G)``. ``filter_size``, ``stride`` and
    ``dilation_factor`` are one number each; ``padding`` is ``"same"``, ``"valid"``, ``"causal"``,
    ``p`` or ``((before, after),)``, and ``data_format`` ``"BSC"`` by default.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument has a wrong value or, at the first call, the input does not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from grouped_conv_jax.linen import GroupedConv1D
        >>> causal = GroupedConv1D(4, 1, "channel-wise", padding="causal")
        >>> y, variables = causal.init_with_output(jax.random.key(0), jnp.ones((2, 64, 16)))
        >>> y.shape, variables["params"]["weights"].shape
        ((2, 64, 16), (4, 1, 1, 16))
    """

    spatial_axes: ClassVar[int] = 1
    data_format: str = "BSC"


class GroupedConv3D(GroupedConv):
    """:class:`GroupedConv2D` in three spatial dimensions.

    With the same letters and ``D`` for the depth, ``x`` is ``(B, D, H, W, C*G)``, ``weights``
    ``(filter depth, filter height, filter width, C, F, G)`` and ``bias`` ``(1, 1, 1, F, G)``.
    ``filter_size``, ``stride`` and ``dilation_factor`` are one number or three; ``padding`` is
    ``"same"``, ``"valid"``, ``p``, three numbers or three pairs (before, after), and
    ``data_format`` ``"BSSSC"`` by default.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument has a wrong value or, at the first call, the input does not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from grouped_conv_jax.linen import GroupedConv3D
        >>> depthwise = GroupedConv3D(3, 1, "channel-wise", padding="same", stride=(1, 2, 2))
        >>> y, _ = depthwise.init_with_output(jax.random.key(0), jnp.ones((2, 16, 14, 14, 8)))
        >>> y.shape
        (2, 16, 7, 7, 8)
    """

    spatial_axes: ClassVar[int] = 3
    data_format: str = "BSSSC"
