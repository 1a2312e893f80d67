"""Max and average pooling."""

from collections.abc import Mapping
from typing import Any, ClassVar

from grouped_conv_jax.matlab import _values
from grouped_conv_jax.matlab._described import Property
from grouped_conv_jax.matlab._operations import Pooling
from grouped_conv_jax.matlab._windows import Window, whole

_HYPERPARAMETERS = ("PoolSize", "Stride", "PaddingMode", "PaddingSize")


class _Pooling(Window):
    """What both poolings have."""

    PoolSize = Property("(height, width) of the pooling regions, in pixels.", whole)

    _positional = ("PoolSize",)
    _arguments: ClassVar[Mapping[str, str]] = {**Window._arguments, "PoolSize": "filter_size"}
    # A pool has the geometry of a channel-wise filter.
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
        return f"{'x'.join(map(str, self.PoolSize))} {self._kind} pooling {self._steps()}"


class MaxPooling2DLayer(_Pooling):
    """Takes the maximum of each pooling region.

    `maxPooling2dLayer` is another name of this class.

    Args:
        poolSize: height and width of the regions in pixels, or one number for both.
        *pairs: properties as ``'Name', value`` pairs.
        **properties: ``Stride``, ``Padding`` (``'same'``, ``p``, ``[a, b]`` or ``[t, b, l, r]``,
            below the pool's size), ``Name``.

    Raises:
        TypeError: an unknown, a read-only or a repeated name, or a value of the wrong kind.
        ValueError: a wrong value.

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

    HasUnpoolingOutputs = Property("Outputs to unpool: none.", default=0, read_only=True)

    _sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "": ("Name", "HasUnpoolingOutputs", "NumOutputs", "OutputNames"),
        "Hyperparameters": _HYPERPARAMETERS,
    }
    _default_name = "maxpool"
    _title = "2-D Max Pooling"
    _kind = "max"


class AveragePooling2DLayer(_Pooling):
    """Takes the mean of each pooling region.

    `averagePooling2dLayer` is another name of this class.

    Args:
        poolSize: height and width of the regions in pixels, or one number for both.
        *pairs: properties as ``'Name', value`` pairs.
        **properties: ``Stride``, ``Padding`` and ``Name`` as of `maxPooling2dLayer`, and
            ``PaddingValue``: 0 counts the padding as zeros, ``'mean'`` excludes it.

    Raises:
        TypeError: an unknown, a read-only or a repeated name, or a value of the wrong kind.
        ValueError: a wrong value.

    Example:
        >>> from grouped_conv_jax.matlab import averagePooling2dLayer
        >>> averagePooling2dLayer([2, 3], Padding="same").PoolSize
        (2, 3)
    """

    PaddingValue = Property(
        "0, or 'mean' for the mean of the region.",
        _values.word("mean", also="0", takes=lambda v: _values.whole(v) == 0 and v is not False),
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
