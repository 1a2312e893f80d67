"""One layer's hyperparameters, validated, without a framework.

The Linen and the NNX module hold these as attributes of their own and read them back with
``Hyperparameters.of(module)``; what a hyperparameter means stands here once.
"""

import dataclasses
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from grouped_conv_jax import _checks, initializers
from grouped_conv_jax._choice import check_implementation
from grouped_conv_jax._functional import grouped_conv2d
from grouped_conv_jax._implementations import lax
from grouped_conv_jax._layout import Layout
from grouped_conv_jax._padding import Padding
from grouped_conv_jax.initializers import Initializer

IntPair: TypeAlias = int | tuple[int, int]
Groups: TypeAlias = int | Literal["channel-wise", "channelwise"]
FACTORS = (
    "weight_learn_rate_factor",
    "bias_learn_rate_factor",
    "weight_l2_factor",
    "bias_l2_factor",
)


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """What the constructor of a layer takes, checked and in one form.

    Pairs become tuples, words lower case, ``padding`` ``"same"`` or ``(t, b, l, r)``. The public
    modules' docstrings say what each means.
    """

    filter_size: IntPair
    num_filters_per_group: int
    num_groups: Groups
    stride: IntPair = 1
    dilation_factor: IntPair = 1
    padding: Any = 0
    padding_value: float | str = 0
    num_channels_per_group: int | Literal["auto"] = "auto"
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
        border = Padding.parse(self.padding, self.padding_value)
        checked = {
            "filter_size": _checks.pair("filter_size", self.filter_size),
            "num_filters_per_group": _checks.integer(
                "num_filters_per_group", self.num_filters_per_group, 1
            ),
            "num_groups": _integer_or_word("num_groups", self.num_groups, "channel-wise"),
            "stride": _checks.pair("stride", self.stride),
            "dilation_factor": _checks.pair("dilation_factor", self.dilation_factor),
            "padding": "same" if border.sides is None else border.size,
            "padding_value": border.value,
            "num_channels_per_group": _integer_or_word(
                "num_channels_per_group", self.num_channels_per_group, "auto"
            ),
            "weights_initializer": initializers.check(
                "weights_initializer", self.weights_initializer
            ),
            "bias_initializer": initializers.check("bias_initializer", self.bias_initializer),
            "data_format": Layout.parse(self.data_format).data_format,
            "precision": lax.check_precision(self.precision),
            "implementation": check_implementation(self.implementation),
        }
        checked |= {name: _checks.nonnegative_number(name, getattr(self, name)) for name in FACTORS}
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        self._check_the_rest()

    def _check_the_rest(self) -> None:
        if not isinstance(self.use_bias, bool | np.bool_):
            raise TypeError(f"use_bias must be True or False, got {self.use_bias!r}")
        if self.initial_bias is not None and not self.use_bias:
            raise ValueError("initial_bias must be None where use_bias is False, got an array")
        if self.num_groups == "channel-wise" and self.num_channels_per_group not in ("auto", 1):
            raise ValueError(
                'num_channels_per_group must be "auto" or 1 where num_groups is "channel-wise", '
                f"got {self.num_channels_per_group!r}"
            )
        _checks.floating_dtype("param_dtype", self.param_dtype)
        if self.dtype is not None:
            _checks.floating_dtype("dtype", self.dtype)
        groups = None if isinstance(self.num_groups, str) else self.num_groups
        channels = (
            None if isinstance(self.num_channels_per_group, str) else (self.num_channels_per_group)
        )
        if self.num_groups == "channel-wise":
            channels = 1
        self._check_initials(channels, groups)

    def _check_initials(self, channels: int | None, groups: int | None) -> None:
        self._check_initial("initial_weights", self._weights_shape(channels, groups))
        self._check_initial("initial_bias", (1, 1, self.num_filters_per_group, groups))

    @classmethod
    def of(cls, module: Any) -> "Hyperparameters":
        """Reads the hyperparameters from a module's attributes, and checks them."""
        return cls(**{name: getattr(module, name) for name in FIELDS})

    @classmethod
    def held_by(cls, module: Any) -> "Hyperparameters":
        """Reads back what a module got from here, checked already."""
        held = object.__new__(cls)
        held.__dict__.update({name: getattr(module, name) for name in FIELDS})
        return held

    @property
    def border(self) -> Padding:
        """The padding and its value."""
        return Padding.parse(self.padding, self.padding_value)

    def resolve(self, num_channels: int, received: str) -> "Hyperparameters":
        """Returns a copy with numbers for the groups and the channels per group.

        Args:
            num_channels: the number of input channels.
            received: where that number is from, for the message of an error.

        Raises:
            ValueError: the input's channels do not fit the groups or the initial arrays.
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
        resolved = object.__new__(type(self))
        resolved.__dict__.update(
            self.__dict__ | {"num_groups": groups, "num_channels_per_group": channels}
        )
        resolved._check_initials(channels, groups)
        return resolved

    def resolve_for(self, x: ArrayLike) -> "Hyperparameters":
        """As :meth:`resolve`, for an input."""
        _checks.floating_array("x", x)
        layout = Layout.parse(self.data_format)
        shape = np.shape(x)
        layout.check_rank(shape)
        num_channels = layout.num_channels(shape)
        return self.resolve(
            num_channels,
            f'{num_channels} channels in x of shape {shape} (data_format "{self.data_format}")',
        )

    def _weights_shape(self, channels: int | None, groups: int | None) -> tuple[int | None, ...]:
        height, width = _checks.pair("filter_size", self.filter_size)
        return height, width, channels, self.num_filters_per_group, groups

    @property
    def weights_shape(self) -> tuple[int, ...]:
        """``(h, w, C, F, G)``, of resolved hyperparameters."""
        channels, groups = int(self.num_channels_per_group), int(self.num_groups)
        return tuple(size for size in self._weights_shape(channels, groups) if size is not None)

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """``(1, 1, F, G)``, of resolved hyperparameters."""
        return 1, 1, self.num_filters_per_group, int(self.num_groups)

    def _check_initial(self, name: str, expected: tuple[int | None, ...]) -> None:
        array = getattr(self, name)
        if array is None:
            return
        dtype = getattr(array, "dtype", np.dtype(object))
        if not jnp.issubdtype(dtype, jnp.floating) and not jnp.issubdtype(dtype, jnp.integer):
            raise TypeError(
                f"{name} must be an array of real numbers, got {type(array).__name__} of {dtype}"
            )
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
        """``(key, shape, dtype)`` to the first weights."""
        return _initializer(self.weights_initializer, self.initial_weights)

    @property
    def initialize_bias(self) -> Initializer:
        """``(key, shape, dtype)`` to the first bias."""
        return _initializer(self.bias_initializer, self.initial_bias)

    def __call__(self, x: ArrayLike, weights: jax.Array, bias: jax.Array | None) -> jax.Array:
        """Applies the layer, in ``dtype`` where one is set."""
        if self.dtype is not None:
            x, weights = jnp.asarray(x, self.dtype), weights.astype(self.dtype)
            bias = None if bias is None else bias.astype(self.dtype)
        return grouped_conv2d(
            x,
            weights,
            bias,
            stride=self.stride,
            dilation_factor=self.dilation_factor,
            padding=self.padding,
            padding_value=self.padding_value,
            data_format=self.data_format,
            implementation=self.implementation,
            precision=self.precision,
        )


FIELDS = tuple(field.name for field in dataclasses.fields(Hyperparameters))


class ReadOnlyProperties:
    """What both modules tell about themselves and nobody can set."""

    @property
    def num_inputs(self) -> int:
        """Number of inputs: one."""
        return 1

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return ("in",)

    @property
    def num_outputs(self) -> int:
        """Number of outputs: one."""
        return 1

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return ("out",)

    @property
    def padding_mode(self) -> str:
        """``"manual"``, or ``"same"``."""
        return Hyperparameters.of(self).border.mode

    @property
    def padding_size(self) -> tuple[int, int, int, int]:
        """(top, bottom, left, right); zeros for ``"same"``, whose sizes the input decides."""
        return Hyperparameters.of(self).border.size


def check_learnable(name: str, array: Any, expected: tuple[int, ...]) -> None:
    """Raises where what an initializer returned, or a state holds, is of another kind or shape."""
    axes = {
        "weights": "(filter height, filter width, channels per group, filters per group, groups)",
        "bias": "(1, 1, filters per group, groups)",
    }
    _checks.floating_array(name, array)
    if not isinstance(array, jax.Array | np.ndarray):
        # Quantized by a library that takes the axes for those of Flax's kernels.
        raise TypeError(
            f"{name} must be an array, got {type(array).__name__}; to quantize a grouped "
            "convolution, use Flax's Conv with feature_group_count, under accelerate or with "
            "conv_general_dilated=grouped_conv_jax.conv_general_dilated"
        )
    _checks.shape_is(name, array, expected, axes[name])


def _integer_or_word(name: str, value: Any, word: str) -> int | str:
    if isinstance(value, str):
        return _checks.word(name, value, (word,), "a positive integer")
    return _checks.integer(name, value, 1)


def _initializer(initializer: str | Initializer, initial: ArrayLike | None) -> Initializer:
    if initial is None:
        return initializers.resolve(initializer)

    def start(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        del key, shape  # The array's own shape was checked when the layer was built.
        return jnp.array(initial, dtype)

    return start
