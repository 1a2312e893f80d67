"""The constructor arguments of the layers."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from grouped_conv_jax import _checks
from grouped_conv_jax.initializers import Initializer

Sizes: TypeAlias = int | Sequence[int]
"""One positive integer for all spatial axes, or one per axis."""
Groups: TypeAlias = int | Literal["channel-wise", "channelwise"]


@dataclasses.dataclass(eq=False)
class Arguments:
    """The constructor arguments of a layer, documented in :class:`linen.GroupedConv2D`.

    Two instances are equal if they have the same class and equal fields. Arrays are equal if their
    shapes, dtypes and elements are.
    """

    filter_size: Sizes
    num_filters_per_group: int
    num_groups: Groups
    stride: Sizes = 1
    dilation_factor: Sizes = 1
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

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not isinstance(other, Arguments):
            return NotImplemented
        return contents(self) == contents(other)

    def __hash__(self) -> int:
        return hash(contents(self))


FIELDS = tuple(field.name for field in dataclasses.fields(Arguments))


def contents(arguments: Arguments) -> tuple[Any, ...]:
    """The values of all fields in a hashable form."""
    fields = (field.name for field in dataclasses.fields(arguments) if field.compare)
    return tuple(_hashable(getattr(arguments, name)) for name in fields)


def _hashable(value: Any) -> Any:
    if isinstance(value, jax.core.Tracer) or not isinstance(value, np.ndarray | jax.Array):
        return value
    array = np.asarray(value)
    return array.shape, array.dtype.name, array.tobytes()


# Our names for Flax's arguments.
_FLAX_NAMES = {
    "features": "num_filters_per_group (features / num_groups)",
    "out_features": "num_filters_per_group (features / num_groups)",
    "in_features": "num_channels",
    "kernel_size": "filter_size",
    "strides": "stride",
    "kernel_dilation": "dilation_factor",
    "feature_group_count": "num_groups",
    "kernel_init": "weights_initializer",
    "bias_init": "bias_initializer",
}


def check_names(layer: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raises ``TypeError`` if a layer does not have one of the given keyword arguments."""
    for name in given:
        if name not in known:
            ours = _FLAX_NAMES.get(name)
            hint = f"; use {ours}" if ours else _checks.nearest(name, known)
            raise TypeError(f"{layer} has no argument {name!r}{hint}")
