"""Grouped and ordinary convolutions."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from flax import nnx

import grouped_conv_jax.linen
import grouped_conv_jax.nnx
from grouped_conv_jax.matlab import _values
from grouped_conv_jax.matlab._initializers import without_groups
from grouped_conv_jax.matlab._layer import Size
from grouped_conv_jax.matlab._properties import Property
from grouped_conv_jax.matlab._values import integral
from grouped_conv_jax.matlab._windows import Window


class _Convolution(Window):
    """Base of the two convolution layers."""

    FilterSize = Property("(height, width) of the filters, in pixels.", integral)
    DilationFactor = Property("Distance between filter taps, in pixels.", integral, (1, 1))
    PaddingValue = Property("A number, or the name of a padding mode.", default=0)
    WeightsInitializer = Property("Initializer: a name or a function.", default="glorot")
    BiasInitializer = Property("Initializer: a name or a function.", default="zeros")
    WeightLearnRateFactor = Property("Factor on the learning rate.", default=1.0)
    BiasLearnRateFactor = Property("Factor on the learning rate.", default=1.0)
    WeightL2Factor = Property("Factor on the L2 regularization.", default=1.0)
    BiasL2Factor = Property("Factor on the L2 regularization.", default=0.0)

    _learnables = ("Weights", "Bias")
    _arguments: ClassVar[Mapping[str, str]] = {
        **Window._arguments,
        "FilterSize": "filter_size",
        "DilationFactor": "dilation_factor",
        "PaddingValue": "padding_value",
        "WeightsInitializer": "weights_initializer",
        "BiasInitializer": "bias_initializer",
        "Weights": "initial_weights",
        "Bias": "initial_bias",
        "WeightLearnRateFactor": "weight_learn_rate_factor",
        "BiasLearnRateFactor": "bias_learn_rate_factor",
        "WeightL2Factor": "weight_l2_factor",
        "BiasL2Factor": "bias_l2_factor",
    }

    def to_linen(self, data_format: str = "BSSC") -> "grouped_conv_jax.linen.GroupedConv2D":
        """Returns a Linen module with the properties and the name of this layer.

        Args:
            data_format: one letter for each axis, as in :func:`grouped_conv_jax.grouped_conv2d`.

        Example:
            >>> from grouped_conv_jax.matlab import groupedConvolution2dLayer
            >>> groupedConvolution2dLayer(3, 1, "channel-wise").to_linen().filter_size
            (3, 3)
        """
        arguments = self._convolution_arguments(self._values)
        return grouped_conv_jax.linen.GroupedConv2D(
            **arguments, data_format=data_format, name=self.Name or None
        )

    def to_nnx(
        self, num_channels: int, *, rngs: nnx.Rngs, data_format: str = "BSSC"
    ) -> "grouped_conv_jax.nnx.GroupedConv2D":
        """Returns an NNX module with the properties of this layer; NNX modules have no name.

        Args:
            num_channels: number of input channels.
            rngs: source of the initializers' keys.
            data_format: one letter for each axis, as in :func:`grouped_conv_jax.grouped_conv2d`.

        Raises:
            ValueError: the number of channels does not match the groups or the weights.

        Example:
            >>> from flax import nnx
            >>> from grouped_conv_jax.matlab import groupedConvolution2dLayer
            >>> layer = groupedConvolution2dLayer(3, 1, "channel-wise")
            >>> layer.to_nnx(16, rngs=nnx.Rngs(0)).weights.shape
            (3, 3, 1, 1, 16)
        """
        arguments = self._convolution_arguments(self._values)
        return grouped_conv_jax.nnx.GroupedConv2D(
            num_channels, **arguments, data_format=data_format, rngs=rngs
        )

    def _linen(self, train: bool | None) -> Any:
        del train
        return self.to_linen()

    def _nnx(self, size: Size, rngs: nnx.Rngs) -> Any:
        return self.to_nnx(size[-1], rngs=rngs)

    def _learned(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        params = variables["params"]
        return {"Weights": params["weights"], "Bias": params["bias"]}

    def _filters(self, number: int, channels: int | str) -> str:
        """Returns the number of filters and their size, for tables."""
        size = "x".join(map(str, self.FilterSize))
        return f"{number} {size}" + ("" if channels == "auto" else f"x{channels}")


class GroupedConvolution2DLayer(_Convolution):
    """A grouped convolution with MATLAB's arguments and properties.

    `groupedConvolution2dLayer` is an alias of this class. Properties can be assigned after
    construction, with the same checks. Property names and string values are case-insensitive.
    Pairs are returned as tuples, and an unset array is ``None``.

    Args:
        filterSize: height and width of the filters in pixels, or one number for both.
        numFiltersPerGroup: number of filters in each group.
        numGroups: number of groups, or ``'channel-wise'`` for one group per channel.
        *pairs: properties as ``'Name', value`` pairs.
        **properties: properties as keyword arguments: ``Padding`` (``'same'``, ``p``, ``[a, b]`` or
            ``[t, b, l, r]``) and the writable properties below.

    Raises:
        TypeError: a name is unknown, read-only or repeated, or a value has the wrong type.
        ValueError: a value is invalid.

    Example:
        >>> from grouped_conv_jax.matlab import groupedConvolution2dLayer
        >>> layer = groupedConvolution2dLayer(5, 128, 2, 'padding', 'SAME', Stride=[2, 1])
        >>> layer.PaddingMode, layer.Stride
        ('same', (2, 1))
        >>> layer.WeightLearnRateFactor = 2
    """

    NumGroups = Property("Number of groups, or 'channel-wise'.", integral)
    NumChannelsPerGroup = Property("Channels per group, or 'auto'.", integral, "auto")
    NumFiltersPerGroup = Property("Filters per group.", integral)
    Weights = Property("(h, w, channels, filters, groups), or None.", _values.array(5), None)
    Bias = Property("(1, 1, filters, groups), or None.", _values.array(4), None)

    _positional = ("FilterSize", "NumFiltersPerGroup", "NumGroups")
    _sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "": ("Name",),
        "Hyperparameters": (
            *("FilterSize", "NumGroups", "NumChannelsPerGroup", "NumFiltersPerGroup", "Stride"),
            *("DilationFactor", "PaddingMode", "PaddingSize", "PaddingValue"),
        ),
        "Learnable Parameters": _Convolution._learnables,
    }
    _arguments: ClassVar[Mapping[str, str]] = {
        **_Convolution._arguments,
        "NumGroups": "num_groups",
        "NumChannelsPerGroup": "num_channels_per_group",
        "NumFiltersPerGroup": "num_filters_per_group",
    }
    _default_name = "groupedconv"
    _title = "2-D Grouped Convolution"

    def _describe(self) -> str:
        groups, channels = self.NumGroups, self.NumChannelsPerGroup
        if self.Weights is not None:
            *_, channels, _, groups = self.Weights.shape
        filters = self._filters(self.NumFiltersPerGroup, channels)
        return f"{groups} groups of {filters} convolutions {self._stride_and_padding()}"


class Convolution2DLayer(_Convolution):
    """A convolution with MATLAB's arguments and properties.

    `convolution2dLayer` is an alias of this class. The layer computes a grouped convolution with
    one group.

    Args:
        filterSize: height and width of the filters in pixels, or one number for both.
        numFilters: number of filters.
        *pairs: properties as ``'Name', value`` pairs.
        **properties: properties as keyword arguments, as for :class:`GroupedConvolution2DLayer`.

    Raises:
        TypeError: a name is unknown, read-only or repeated, or a value has the wrong type.
        ValueError: a value is invalid.

    Example:
        >>> from grouped_conv_jax.matlab import convolution2dLayer
        >>> layer = convolution2dLayer(3, 32, 'Padding', 'same')
        >>> layer.NumFilters, layer.PaddingMode
        (32, 'same')
    """

    NumChannels = Property("Number of input channels, or 'auto'.", integral, "auto")
    NumFilters = Property("Number of filters.", integral)
    Weights = Property("(h, w, channels, filters), or None.", _values.array(4), None)
    Bias = Property("(1, 1, filters), or None.", _values.array(3), None)

    _positional = ("FilterSize", "NumFilters")
    _sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "": ("Name",),
        "Hyperparameters": (
            *("FilterSize", "NumChannels", "NumFilters", "Stride", "DilationFactor"),
            *("PaddingMode", "PaddingSize", "PaddingValue"),
        ),
        "Learnable Parameters": _Convolution._learnables,
    }
    _arguments: ClassVar[Mapping[str, str]] = {
        **_Convolution._arguments,
        "NumChannels": "num_channels_per_group",
        "NumFilters": "num_filters_per_group",
    }
    _fixed: ClassVar[Mapping[str, Any]] = {"num_groups": 1}
    _size_of = staticmethod(without_groups)
    _default_name = "conv"
    _title = "2-D Convolution"

    def _convolution_arguments(self, values: Mapping[str, Any]) -> dict[str, Any]:
        arguments = super()._convolution_arguments(values)
        for name in ("initial_weights", "initial_bias"):
            if arguments[name] is not None:
                arguments[name] = arguments[name][..., np.newaxis]
        return arguments

    def _learned(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        return {name: array[..., 0] for name, array in super()._learned(variables).items()}

    def _describe(self) -> str:
        channels = self.NumChannels if self.Weights is None else self.Weights.shape[2]
        return (
            f"{self._filters(self.NumFilters, channels)} convolutions {self._stride_and_padding()}"
        )


groupedConvolution2dLayer = GroupedConvolution2DLayer  # noqa: N816
convolution2dLayer = Convolution2DLayer  # noqa: N816
