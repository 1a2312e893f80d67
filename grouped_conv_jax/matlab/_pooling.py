"""Max and average pooling."""

from collections.abc import Mapping
from typing import Any, ClassVar

from grouped_conv_jax.matlab import _values
from grouped_conv_jax.matlab._operations import Pooling
from grouped_conv_jax.matlab._properties import Property
from grouped_conv_jax.matlab._values import integral
from grouped_conv_jax.matlab._windows import Window

_HYPERPARAMETERS = ("PoolSize", "Stride", "PaddingMode", "PaddingSize")


class _Pooling(Window):
    """Base of the two pooling layers."""

    PoolSize = Property("(height, width) of the pooling regions, in pixels.", integral)

    _positional = ("PoolSize",)
    _arguments: ClassVar[Mapping[str, str]] = {**Window._arguments, "PoolSize": "filter_size"}
    # A pooling region has the geometry of a channel-wise filter.
    _fixed: ClassVar[Mapping[str, Any]] = {
        "num_filters_per_group": 1,
        "num_groups": "channel-wise",
    }
    _kind: ClassVar[str]

    def _resolve(self, values: dict[str, Any]) -> dict[str, Any]:
        values = super()._resolve(values)
        height, width = values["PoolSize"]
        sides = values["PaddingSize"]
        if max(sides[:2]) >= height or max(sides[2:]) >= width:
            raise ValueError(f"Padding must be below PoolSize={height, width}, got {sides}")
        return values

    def _linen(self, train: bool | None) -> Pooling:
        del train
        padding = "same" if self.PaddingMode == "same" else self.PaddingSize
        return Pooling(self._kind, self.PoolSize, self.Stride, padding)

    def _describe(self) -> str:
        return (
            f"{'x'.join(map(str, self.PoolSize))} {self._kind} pooling {self._stride_and_padding()}"
        )


class MaxPooling2DLayer(_Pooling):
    """Takes the maximum of each pooling region.

    `maxPooling2dLayer` is an alias of this class.

    Args:
        poolSize: height and width of the regions in pixels, or one number for both.
        *pairs: properties as ``'Name', value`` pairs.
        **properties: ``Stride``, ``Padding`` (``'same'``, ``p``, ``[a, b]`` or ``[t, b, l, r]``,
            smaller than the region), ``Name``.

    Raises:
        TypeError: a name is unknown, read-only or repeated, or a value has the wrong type.
        ValueError: a value is invalid.

    Example:
        >>> from grouped_conv_jax.matlab import maxPooling2dLayer
        >>> print(maxPooling2dLayer(2, 'Stride', 2))
          MaxPooling2DLayer with properties:
        <BLANKLINE>
                           Name: ''
            HasUnpoolingOutputs: 0
                     NumOutputs: 1
                    OutputNames: {'out'}
        <BLANKLINE>
           Hyperparameters
                       PoolSize: [2 2]
                         Stride: [2 2]
                    PaddingMode: 'manual'
                    PaddingSize: [0 0 0 0]
    """

    HasUnpoolingOutputs = Property("Always 0: no unpooling.", default=0, read_only=True)

    _sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "": ("Name", "HasUnpoolingOutputs", "NumOutputs", "OutputNames"),
        "Hyperparameters": _HYPERPARAMETERS,
    }
    _default_name = "maxpool"
    _title = "2-D Max Pooling"
    _kind = "max"


class AveragePooling2DLayer(_Pooling):
    """Takes the mean of each pooling region.

    `averagePooling2dLayer` is an alias of this class.

    Args:
        poolSize: height and width of the regions in pixels, or one number for both.
        *pairs: properties as ``'Name', value`` pairs.
        **properties: ``Stride``, ``Padding`` and ``Name`` as for `maxPooling2dLayer`, and
            ``PaddingValue``: 0 counts the padding as zeros, ``'mean'`` excludes it.

    Raises:
        TypeError: a name is unknown, read-only or repeated, or a value has the wrong type.
        ValueError: a value is invalid.

    Example:
        >>> from grouped_conv_jax.matlab import averagePooling2dLayer
        >>> averagePooling2dLayer([2, 3], Padding="same").PoolSize
        (2, 3)
    """

    PaddingValue = Property(
        "0, or 'mean' to exclude the padding from the mean.",
        _values.word(
            "mean", also="0", takes=lambda v: _values.to_integers(v) == 0 and v is not False
        ),
        0,
    )

    _sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "": ("Name",),
        "Hyperparameters": (*_HYPERPARAMETERS, "PaddingValue"),
    }
    _default_name = "avgpool2d"
    _title = "2-D Average Pooling"
    _kind = "average"

    def _linen(self, train: bool | None) -> Pooling:
        pooling = super()._linen(train)
        return Pooling(
            pooling.kind, pooling.pool, pooling.stride, pooling.padding, self.PaddingValue == 0
        )


maxPooling2dLayer = MaxPooling2DLayer  # noqa: N816
averagePooling2dLayer = AveragePooling2DLayer  # noqa: N816
