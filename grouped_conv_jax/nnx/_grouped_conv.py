"""Grouped convolution as NNX modules."""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Self

import jax
from flax import nnx
from jax.typing import ArrayLike

from grouped_conv_jax import _checks
from grouped_conv_jax.initializers import Initializer
from grouped_conv_jax.layer import _flax_conv
from grouped_conv_jax.layer._arguments import FIELDS, Arguments, check_names
from grouped_conv_jax.layer._hyperparameters import Hyperparameters
from grouped_conv_jax.layer._properties import ReadOnlyProperties

# Arguments that only construction uses, or that determine the shapes of the learnables.
_FIXED = (
    *("filter_size", "num_filters_per_group", "num_groups", "num_channels_per_group", "use_bias"),
    *("weights_initializer", "bias_initializer", "initial_weights", "initial_bias", "param_dtype"),
)


class _Field:
    """A hyperparameter as an attribute of the module."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, module: "GroupedConv | None", owner: type) -> Any:
        return self if module is None else getattr(module.hyperparameters, self.name)

    def __set__(self, module: "GroupedConv", value: Any) -> None:
        if self.name in _FIXED:
            raise AttributeError(f"{self.name} cannot change once the module exists")
        module.hyperparameters = module.hyperparameters.replaced(**{self.name: value})


class GroupedConv(nnx.Module, ReadOnlyProperties):
    """The base class of grouped convolutions with any number of spatial axes."""

    spatial_axes: ClassVar[int]
    __init__: Callable[..., None]

    def _construct(self, num_channels: int, arguments: Arguments, rngs: nnx.Rngs) -> None:
        self.num_channels = _checks.integer("num_channels", num_channels, 1)
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(f"rngs must be an nnx.Rngs, got {type(rngs).__name__}")
        values = {name: getattr(arguments, name) for name in FIELDS}
        layer = Hyperparameters(**values, axes=self.spatial_axes).resolve(
            self.num_channels, f"num_channels={self.num_channels}"
        )
        # The initial arrays live on in the learnables; a second copy would enter every state. An
        # initializer would make equal modules differ.
        self.hyperparameters = layer.without_initial_values()
        self.weights = self._learnable(
            "weights", layer.initialize_weights, layer.weights_shape, rngs
        )
        bias = None
        if layer.use_bias:
            bias = self._learnable("bias", layer.initialize_bias, layer.bias_shape, rngs)
        self.bias = bias

    def _learnable(
        self, name: str, initialize: Initializer, shape: tuple[int, ...], rngs: nnx.Rngs
    ) -> nnx.Param[jax.Array]:
        learnable = nnx.Param(initialize(rngs.params(), shape, self.hyperparameters.param_dtype))
        self.hyperparameters.check_learnable(name, learnable.get_value())
        return learnable

    @classmethod
    def from_conv(cls, conv: nnx.Conv, **arguments: Any) -> Self:
        """Converts a ``Conv`` of Flax to an equivalent layer with copies of its arrays.

        Args:
            conv: a ``Conv`` with any number of groups and any padding of Flax.
            **arguments: arguments of the layer that ``conv`` does not have, such as factors.

        Raises:
            TypeError: ``conv`` is not a ``Conv``, or its learnables are sharded by metadata, which
                refers to the axes of Flax's kernel.
            ValueError: ``conv`` has an input dilation, a mask or another number of spatial axes.

        Example:
            >>> import jax.numpy as jnp
            >>> from flax import nnx
            >>> from grouped_conv_jax.nnx import GroupedConv2D
            >>> conv = nnx.Conv(4, 8, (3, 3), feature_group_count=2, rngs=nnx.Rngs(0))
            >>> layer, x = GroupedConv2D.from_conv(conv), jnp.ones((1, 5, 5, 4))
            >>> layer.weights.shape, bool(jnp.allclose(layer(x), conv(x), atol=1e-6))
            ((3, 3, 2, 4, 2), True)
        """
        given = _flax_conv.arguments_of(conv, cls.spatial_axes)
        groups = given["num_groups"]
        for name in ("kernel", "bias"):
            variable = getattr(conv, name)
            if variable is not None and variable.get_metadata("out_sharding", None) is not None:
                raise TypeError(f"{name} must have no out_sharding, got {variable}")
        given["initial_weights"] = _flax_conv.to_weights(conv.kernel.get_value(), groups)
        if conv.bias is not None:
            bias = conv.bias.get_value()
            given["initial_bias"] = _flax_conv.to_bias(bias, groups, cls.spatial_axes)
        return cls(conv.in_features, **given | arguments, rngs=nnx.Rngs(0))

    def to_conv(self) -> nnx.Conv:
        """Converts this layer to an equivalent ``Conv`` of Flax.

        The ``Conv`` takes the fast path, by its argument ``conv_general_dilated``, unless
        ``implementation`` is ``"lax"``.

        Raises:
            ValueError: Flax's ``Conv`` does not support the padding, data format or factors.

        Example:
            >>> from flax import nnx
            >>> from grouped_conv_jax.nnx import GroupedConv1D
            >>> layer = GroupedConv1D(3, 4, 1, "channel-wise", padding="causal", rngs=nnx.Rngs(0))
            >>> conv = layer.to_conv()
            >>> conv.padding, conv.feature_group_count, conv.kernel.shape
            ('CAUSAL', 3, (4, 1, 3))
        """
        weights = self.weights.get_value()
        filters = weights.shape[-2] * weights.shape[-1]
        arguments = _flax_conv.conv_arguments(self.hyperparameters)
        conv = nnx.Conv(self.num_channels, filters, **arguments, rngs=nnx.Rngs(0))
        conv.kernel.set_value(_flax_conv.to_kernel(weights))
        if self.bias is not None and conv.bias is not None:
            conv.bias.set_value(_flax_conv.to_vector(self.bias.get_value()))
        return conv

    def __call__(self, x: ArrayLike) -> jax.Array:
        """Returns ``(B, *spatial', F*G)`` for ``x`` ``(B, *spatial, C*G)``."""
        layer = self.hyperparameters.resolve_for(x)
        weights, bias = self.weights.get_value(), None
        layer.check_learnable("weights", weights)
        if self.bias is not None:
            bias = self.bias.get_value()
            layer.check_learnable("bias", bias)
        return layer(x, weights, bias)


for _name in FIELDS:
    setattr(GroupedConv, _name, _Field(_name))


def _constructor(data_format: str) -> Callable[..., None]:
    """Returns the ``__init__`` of a module, with all arguments in its signature."""
    positional, keyword_only = (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )
    fields = inspect.signature(Arguments).parameters
    parameters = [
        inspect.Parameter("self", positional),
        inspect.Parameter("num_channels", positional, annotation=int),
        *(fields | {"data_format": fields["data_format"].replace(default=data_format)}).values(),
        inspect.Parameter("rngs", keyword_only, annotation=nnx.Rngs),
    ]
    signature = inspect.Signature(parameters, return_annotation=None)

    def construct(self: GroupedConv, *arguments: Any, **keywords: Any) -> None:
        check_names(type(self).__name__, keywords, signature.parameters)
        bound = signature.bind(self, *arguments, **keywords)
        bound.apply_defaults()
        named = bound.arguments
        values = {name: named[name] for name in FIELDS}
        self._construct(named["num_channels"], Arguments(**values), named["rngs"])

    construct.__name__ = "__init__"
    construct.__signature__ = signature  # type: ignore[attr-defined]
    return construct


class GroupedConv2D(GroupedConv):
    """Convolves each group of channels with its own filters.

    Letters: ``B`` batch, ``H`` height, ``W`` width, ``C`` channels per group, ``F`` filters per
    group, ``G`` groups. Learnables: ``weights`` ``(filter height, filter width, C, F, G)`` and
    ``bias`` ``(1, 1, F, G)``, or ``None``. Since the module knows the number of input channels,
    ``num_groups`` and ``num_channels_per_group`` always read as numbers.

    Args:
        num_channels: number of input channels, ``C * G``.
        rngs: the source of the initializers' keys (stream ``params``).

    The other arguments are those of :class:`grouped_conv_jax.linen.GroupedConv2D`, in the same
    order and with the same meaning, and are attributes of the module. After construction,
    ``initial_weights``, ``initial_bias`` and initializers that are callables read as ``None``.
    Assignments to attributes are checked. Attributes that determine the shapes of the learnables
    cannot be assigned.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument has a wrong value or, at a call, the input does not fit.

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

    spatial_axes: ClassVar[int] = 2
    __init__ = _constructor("BSSC")


class GroupedConv1D(GroupedConv):
    """:class:`GroupedConv2D` in one spatial dimension.

    :class:`grouped_conv_jax.linen.GroupedConv1D` documents the differences.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument has a wrong value or, at a call, the input does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from grouped_conv_jax.nnx import GroupedConv1D
        >>> causal = GroupedConv1D(16, 4, 1, "channel-wise", padding="causal", rngs=nnx.Rngs(0))
        >>> causal.weights.shape, causal(jnp.ones((2, 64, 16))).shape
        ((4, 1, 1, 16), (2, 64, 16))
    """

    spatial_axes: ClassVar[int] = 1
    __init__ = _constructor("BSC")


class GroupedConv3D(GroupedConv):
    """:class:`GroupedConv2D` in three spatial dimensions.

    :class:`grouped_conv_jax.linen.GroupedConv3D` documents the differences.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument has a wrong value or, at a call, the input does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from grouped_conv_jax.nnx import GroupedConv3D
        >>> depthwise = GroupedConv3D(8, 3, 1, "channel-wise", padding="same", rngs=nnx.Rngs(0))
        >>> depthwise(jnp.ones((2, 16, 14, 14, 8))).shape
        (2, 16, 14, 14, 8)
    """

    spatial_axes: ClassVar[int] = 3
    __init__ = _constructor("BSSSC")
