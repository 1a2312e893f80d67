"""The validated hyperparameters of one layer, independent of Linen and NNX.

The Linen module inherits ``_arguments.Arguments``. All modules hold a :class:`Hyperparameters` and
call it to compute their outputs.
"""

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from grouped_conv_jax import _checks, initializers
from grouped_conv_jax.initializers import Initializer
from grouped_conv_jax.layer._arguments import FIELDS, Arguments
from grouped_conv_jax.operation import _call
from grouped_conv_jax.operation._options import Options

FACTORS = (
    "weight_learn_rate_factor",
    "bias_learn_rate_factor",
    "weight_l2_factor",
    "bias_l2_factor",
)
_ARRAYS = ("initial_weights", "initial_bias")


@dataclasses.dataclass(eq=False)
class Hyperparameters(Arguments):
    """The arguments of a layer, validated, normalized and immutable.

    Sizes become tuples and words lower case. ``padding`` becomes a word, ``(t, b, l, r)`` for two
    spatial axes, or one pair per axis.

    Attributes:
        axes: the number of spatial axes.
        options: the keyword arguments of the pure function.
    """

    axes: int = 2
    options: Options = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        options = Options.parse(
            self.axes,
            stride=self.stride,
            dilation_factor=self.dilation_factor,
            padding=self.padding,
            padding_value=self.padding_value,
            data_format=self.data_format,
            implementation=self.implementation,
            precision=self.precision,
        )
        padding = options.padding
        is_tblr = self.axes == 2 and padding.mode == "manual"
        fields = {
            "options": options,
            "filter_size": _checks.per_axis("filter_size", self.filter_size, self.axes),
            "num_filters_per_group": _checks.integer(
                "num_filters_per_group", self.num_filters_per_group, 1
            ),
            "num_groups": _checks.integer_or_word("num_groups", self.num_groups, "channel-wise"),
            "stride": options.strides,
            "dilation_factor": options.dilation,
            "padding": padding.size if is_tblr else padding.sides,
            "padding_value": padding.value,
            "num_channels_per_group": _checks.integer_or_word(
                "num_channels_per_group", self.num_channels_per_group, "auto"
            ),
            "weights_initializer": initializers.check(
                "weights_initializer", self.weights_initializer, self.axes
            ),
            "bias_initializer": initializers.check("bias_initializer", self.bias_initializer),
            "data_format": options.layout.data_format,
            "precision": options.precision,
            "implementation": options.implementation,
        }
        fields |= {name: _factor(name, getattr(self, name)) for name in FACTORS}
        vars(self).update(fields)
        self._check_dependencies()

    def __setattr__(self, name: str, value: Any) -> None:
        if "options" in vars(self):
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        super().__setattr__(name, value)

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def _check_dependencies(self) -> None:
        _checks.boolean("use_bias", self.use_bias)
        if self.num_groups == "channel-wise" and self.num_channels_per_group not in ("auto", 1):
            raise ValueError(
                'num_channels_per_group must be "auto" or 1 where num_groups is "channel-wise", '
                f"got {self.num_channels_per_group!r}"
            )
        _checks.floating_dtype("param_dtype", self.param_dtype)
        if self.dtype is not None:
            _checks.floating_dtype("dtype", self.dtype)
        self._check_initial_values()

    def _check_initial_values(self) -> None:
        """Checks the arrays, as far as that is possible without an input."""
        if self.initial_bias is not None and not self.use_bias:
            raise ValueError("initial_bias must be None where use_bias is False, got an array")
        groups = None if isinstance(self.num_groups, str) else self.num_groups
        per_group = self.num_channels_per_group
        channels = None if isinstance(per_group, str) else per_group
        if self.num_groups == "channel-wise":
            channels = 1
        self._check_initials(channels, groups)

    def _check_initials(self, channels: int | None, groups: int | None) -> None:
        self._check_initial("initial_weights", self._weights_shape(channels, groups))
        ones = (1,) * self.axes
        self._check_initial("initial_bias", (*ones, self.num_filters_per_group, groups))

    def with_fields(self, **fields: Any) -> "Hyperparameters":
        """Returns a copy with some fields replaced by values that are already checked."""
        copy = object.__new__(type(self))
        vars(copy).update(vars(self) | fields)
        vars(copy).pop("_hash", None)
        return copy

    def replaced(self, **fields: Any) -> "Hyperparameters":
        """Returns a checked copy with some fields replaced, other than the initializers."""
        names = ("weights_initializer", "bias_initializer")
        held = {name: getattr(self, name) for name in names}
        # The initializers of an existing layer may be None, which the check would refuse.
        checkable = self.with_fields(**dict.fromkeys(names, "zeros"))
        return dataclasses.replace(checkable, **fields).with_fields(**held)

    def with_initial_values(self, **arrays: ArrayLike | None) -> "Hyperparameters":
        """Returns a copy with arrays, checked, in place of none."""
        copy = self.with_fields(**arrays)
        copy._check_initial_values()
        return copy

    def without_initial_values(self) -> "Hyperparameters":
        """Returns a copy without initial arrays and without initializers that are callables."""
        words = {
            name: value if isinstance(value := getattr(self, name), str) else None
            for name in ("weights_initializer", "bias_initializer")
        }
        return self.with_fields(**words, initial_weights=None, initial_bias=None)

    def resolve(self, num_channels: int, received: str) -> "Hyperparameters":
        """Returns a copy in which ``num_groups`` and ``num_channels_per_group`` are numbers.

        Args:
            num_channels: the number of input channels.
            received: the source of that number, for error messages.

        Raises:
            ValueError: the number of channels does not match the groups or the initial arrays.
        """
        groups = num_channels if self.num_groups == "channel-wise" else int(self.num_groups)
        if num_channels == 0 or num_channels % groups:
            raise ValueError(
                f"num_groups={groups} must divide the number of input channels, got {received}"
            )
        channels = num_channels // groups
        if self.num_channels_per_group not in ("auto", channels):
            raise ValueError(
                f"num_channels_per_group={self.num_channels_per_group} must be the number of input "
                f"channels / num_groups = {channels}, got {received}"
            )
        resolved = self.with_fields(num_groups=groups, num_channels_per_group=channels)
        resolved._check_initials(channels, groups)
        return resolved

    def resolve_for(self, x: ArrayLike) -> "Hyperparameters":
        """As :meth:`resolve`, with the number of channels of an input."""
        _checks.floating_array("x", x)
        layout = self.options.layout
        shape = x.shape  # type: ignore[union-attr]  # It is an array.
        layout.check_rank(shape)
        num_channels = layout.num_channels(shape)
        return self.resolve(
            num_channels,
            f'{num_channels} channels in x of shape {shape} (data_format "{self.data_format}")',
        )

    def _weights_shape(self, channels: int | None, groups: int | None) -> tuple[int | None, ...]:
        filter_size = cast(tuple[int, ...], self.filter_size)
        return *filter_size, channels, self.num_filters_per_group, groups

    @property
    def weights_shape(self) -> tuple[int, ...]:
        """``(*filter_size, C, F, G)``; the hyperparameters must be resolved."""
        channels, groups = int(self.num_channels_per_group), int(self.num_groups)
        return tuple(size for size in self._weights_shape(channels, groups) if size is not None)

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """``(*ones, F, G)``; the hyperparameters must be resolved."""
        return *(1,) * self.axes, self.num_filters_per_group, int(self.num_groups)

    def _check_initial(self, name: str, expected: tuple[int | None, ...]) -> None:
        array = getattr(self, name)
        if array is None:
            return
        _checks.check_real_dtype(name, array)
        fits = len(array.shape) == len(expected) and all(
            wanted in (None, size) for wanted, size in zip(expected, array.shape, strict=True)
        )
        if not fits:
            wanted = tuple("any" if size is None else size for size in expected)
            raise ValueError(
                f"{name} must have shape {wanted}, got {tuple(array.shape)}".replace("'", "")
            )

    @property
    def initialize_weights(self) -> Initializer:
        """The initializer ``(key, shape, dtype)`` of the weights."""
        return _initializer(self.weights_initializer, self.initial_weights)

    @property
    def initialize_bias(self) -> Initializer:
        """The initializer ``(key, shape, dtype)`` of the bias."""
        return _initializer(self.bias_initializer, self.initial_bias)

    def __call__(self, x: ArrayLike, weights: jax.Array, bias: jax.Array | None) -> jax.Array:
        """Applies the layer, in ``dtype`` if that is not ``None``."""
        if self.dtype is not None:
            x, weights = jnp.asarray(x, self.dtype), weights.astype(self.dtype)
            bias = None if bias is None else bias.astype(self.dtype)
        return _call.apply(self.options, *_call.promote(x, weights, bias))

    def check_learnable(self, name: str, array: Any) -> None:
        """Raises if ``"weights"`` or ``"bias"`` is not an array of the expected kind and shape."""
        _checks.floating_array(name, array)
        if not isinstance(array, jax.Array | np.ndarray):
            # Quantization libraries assume the axes of Flax's kernels.
            raise TypeError(
                f"{name} must be an array, got {type(array).__name__}; to quantize a grouped "
                "convolution, use Flax's Conv with feature_group_count, under accelerate or with "
                "conv_general_dilated=grouped_conv_jax.conv_general_dilated"
            )
        if name == "weights":
            axes, shape = _call.weights_axes(self.axes), self.weights_shape
        else:
            axes, shape = _call.bias_axes(self.axes), self.bias_shape
        _checks.shape_is(name, array, shape, axes)


def checked(arguments: Arguments, axes: int) -> Hyperparameters:
    """Checks the arguments of a module, and caches the result."""
    values = {name: getattr(arguments, name) for name in FIELDS}
    # The cache would keep arrays in memory.
    arrays = {name: values.pop(name) for name in _ARRAYS}
    fields = tuple(values.items())
    try:
        hash(fields)
    except TypeError:  # Lists are not hashable.
        return Hyperparameters(**values, **arrays, axes=axes)
    cached = _checked(axes, fields, _types(fields))
    if all(array is None for array in arrays.values()):
        return cached
    return cached.with_initial_values(**arrays)


@functools.lru_cache(maxsize=512)
def _checked(axes: int, fields: tuple[tuple[str, Any], ...], types: Any) -> Hyperparameters:
    del types  # Part of the cache key: 1, 1.0 and True are equal, but only 1 is a size.
    return Hyperparameters(**dict(fields), axes=axes)


def _types(value: Any) -> Any:
    return tuple(map(_types, value)) if type(value) is tuple else type(value)


def _factor(name: str, value: Any) -> float:
    return float(_checks.number(name, value, _checks.NONNEGATIVE))


def _initializer(initializer: str | Initializer, initial: ArrayLike | None) -> Initializer:
    if initial is None:
        return initializers.resolve(initializer)

    def start(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        del key, shape  # The array's own shape was checked when the layer was built.
        return jnp.array(initial, dtype)

    return start
