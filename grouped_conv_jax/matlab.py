"""The layer under its MATLAB names, for those who come from there.

Example:
    >>> from grouped_conv_jax.matlab import groupedConvolution2dLayer
    >>> layer = groupedConvolution2dLayer(11, 10, 3, Name="gconv1")
    >>> print(layer)
      GroupedConvolution2DLayer with properties:
    <BLANKLINE>
                       Name: 'gconv1'
    <BLANKLINE>
       Hyperparameters
                 FilterSize: [11 11]
                  NumGroups: 3
        NumChannelsPerGroup: 'auto'
         NumFiltersPerGroup: 10
                     Stride: [1 1]
             DilationFactor: [1 1]
                PaddingMode: 'manual'
                PaddingSize: [0 0 0 0]
               PaddingValue: 0
    <BLANKLINE>
       Learnable Parameters
                    Weights: []
                       Bias: []
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

import grouped_conv_jax.linen
import grouped_conv_jax.nnx
from grouped_conv_jax import _checks, _mat_files
from grouped_conv_jax._arguments import FIELDS
from grouped_conv_jax._layer import Hyperparameters, ReadOnlyProperties

__all__ = ["GroupedConvolution2DLayer", "groupedConvolution2dLayer"]


@dataclasses.dataclass(eq=False)
class _Properties(Hyperparameters, ReadOnlyProperties):
    """The hyperparameters, what follows from them, and a name."""

    name: str = ""

    @property
    def hyperparameters(self) -> Hyperparameters:  # type: ignore[override]
        return self

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a string, got {self.name!r}")


class _Property:
    """A property that reads one attribute of `_Properties` and sets the same or another one."""

    name: str

    def __init__(self, reads: str, doc: str, *, read_only: bool = False) -> None:
        self.reads = reads
        self.read_only = read_only
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, layer: "GroupedConvolution2DLayer | None", owner: type) -> Any:
        if layer is None:
            return self
        value = getattr(layer._properties, self.reads)
        return value.function if isinstance(value, _SizeInitializer) else value

    def __set__(self, layer: "GroupedConvolution2DLayer", value: Any) -> None:
        if self.read_only:
            raise AttributeError(f"{self.name} is read-only, got {self.name}={value!r}")
        layer._update(partial(dataclasses.replace, layer._properties), {self.name: value})


class GroupedConvolution2DLayer:
    """A grouped convolution with MATLAB's arguments and properties.

    `groupedConvolution2dLayer` is another name of this class. Properties can be set later too,
    under the same checks. Neither the case of their names matters nor that of words. Pairs are
    tuples here, and an array that is not set is ``None``.

    Args:
        filterSize: height and width of the filters in pixels, or one number for both.
        numFiltersPerGroup: number of filters of a group.
        numGroups: number of groups, or ``'channel-wise'`` for one a channel.
        *pairs: properties as ``'Name', value`` pairs.
        **properties: properties as keyword arguments: ``Padding`` (``'same'``, ``p``, ``[a, b]`` or
            ``[t, b, l, r]``) and those below that are not read-only.

    Raises:
        TypeError: an unknown, a read-only or a repeated name, or a value of the wrong kind.
        ValueError: a wrong value.

    Example:
        >>> layer = groupedConvolution2dLayer(5, 128, 2, 'padding', 'SAME', Stride=[2, 1])
        >>> layer.PaddingMode, layer.Stride
        ('same', (2, 1))
        >>> layer.WeightLearnRateFactor = 2
    """

    Name = _Property("name", "Name of the layer, also in Linen; '' for none.")
    FilterSize = _Property("filter_size", "(height, width) of the filters, in pixels.")
    NumGroups = _Property("num_groups", "Number of groups, or 'channel-wise'.")
    NumChannelsPerGroup = _Property("num_channels_per_group", "Channels of a group, or 'auto'.")
    NumFiltersPerGroup = _Property("num_filters_per_group", "Number of filters of a group.")
    Stride = _Property("stride", "(vertical, horizontal) step between outputs, in pixels.")
    DilationFactor = _Property("dilation_factor", "Distance between filter taps, in pixels.")
    PaddingMode = _Property("padding_mode", "'manual' or 'same'.", read_only=True)
    PaddingSize = _Property("padding_size", "(top, bottom, left, right), zeros in mode 'same'.")
    PaddingValue = _Property("padding_value", "A number, or a word for how the image goes on.")
    WeightsInitializer = _Property("weights_initializer", "A word, or a function of the size.")
    BiasInitializer = _Property("bias_initializer", "A word, or a function of the size.")
    Weights = _Property("initial_weights", "(h, w, channels, filters, groups), or None.")
    Bias = _Property("initial_bias", "(1, 1, filters, groups), or None.")
    WeightLearnRateFactor = _Property("weight_learn_rate_factor", "Factor of the learning rate.")
    BiasLearnRateFactor = _Property("bias_learn_rate_factor", "Factor of the learning rate.")
    WeightL2Factor = _Property("weight_l2_factor", "Factor of the L2 regularization.")
    BiasL2Factor = _Property("bias_l2_factor", "Factor of the L2 regularization.")
    NumInputs = _Property("num_inputs", "Number of inputs: one.", read_only=True)
    InputNames = _Property("input_names", "Names of the inputs.", read_only=True)
    NumOutputs = _Property("num_outputs", "Number of outputs: one.", read_only=True)
    OutputNames = _Property("output_names", "Names of the outputs.", read_only=True)

    _properties: _Properties

    def __init__(
        self,
        filterSize: Any,  # noqa: N803
        numFiltersPerGroup: int,  # noqa: N803
        numGroups: int | str,  # noqa: N803
        *pairs: Any,
        **properties: Any,
    ) -> None:
        given = {
            "FilterSize": filterSize,
            "NumFiltersPerGroup": numFiltersPerGroup,
            "NumGroups": numGroups,
        }
        if len(pairs) % 2:
            raise TypeError(f"properties must be pairs of a name and a value, got {pairs!r}")
        for name, value in [*zip(pairs[::2], pairs[1::2], strict=True), *properties.items()]:
            if not isinstance(name, str):
                raise TypeError(f"a property's name must be a string, got {name!r}")
            real = _real_name(name, (*_PROPERTIES, "Padding"), TypeError)
            if real in given:
                raise TypeError(f"{real} must be given once, got {name}={value!r} too")
            if real in ("PaddingMode", "PaddingSize"):
                raise TypeError(f"{real} follows from Padding, got {name}={value!r}")
            if real not in _ARGUMENTS:
                raise TypeError(f"{real} is read-only, got {name}={value!r}")
            given[real] = value
        self._update(_Properties, given)

    def _update(self, make: Callable[..., _Properties], properties: Mapping[str, Any]) -> None:
        """Replaces the properties by those that ``make`` makes of values under MATLAB's names."""
        arguments = {_ARGUMENTS[name]: _argument(name, value) for name, value in properties.items()}
        try:
            vars(self)["_properties"] = make(**arguments)
        except TypeError as error:
            raise TypeError(_in_matlab_names(str(error))) from None
        except ValueError as error:
            raise ValueError(_in_matlab_names(str(error))) from None

    def __getattr__(self, name: str) -> Any:
        return _PROPERTIES[_real_name(name, _PROPERTIES, AttributeError)].__get__(self, type(self))

    def __setattr__(self, name: str, value: Any) -> None:
        _PROPERTIES[_real_name(name, _PROPERTIES, AttributeError)].__set__(self, value)

    def __repr__(self) -> str:
        lines = [f"  {type(self).__name__} with properties:", ""]
        for title, names in _SECTIONS.items():
            lines += [f"   {title}"] if title else []
            lines += [f"{name:>23}: {_shown(getattr(self, name))}" for name in names]
            lines += [""]
        return "\n".join(lines[:-1])

    def to_linen(self) -> "grouped_conv_jax.linen.GroupedConv2D":
        """Returns the Linen module with these properties and this name.

        Example:
            >>> groupedConvolution2dLayer(3, 1, "channel-wise").to_linen().filter_size
            (3, 3)
        """
        name = self._properties.name or None
        return grouped_conv_jax.linen.GroupedConv2D(**self._arguments(), name=name)

    def to_nnx(self, num_channels: int, *, rngs: nnx.Rngs) -> "grouped_conv_jax.nnx.GroupedConv2D":
        """Returns the NNX module with these properties; NNX modules have no name.

        Args:
            num_channels: number of input channels.
            rngs: where the initializers' keys come from.

        Raises:
            ValueError: the channels do not fit the groups or the weights.

        Example:
            >>> from flax import nnx
            >>> layer = groupedConvolution2dLayer(3, 1, "channel-wise")
            >>> layer.to_nnx(16, rngs=nnx.Rngs(0)).weights.shape
            (3, 3, 1, 1, 16)
        """
        return grouped_conv_jax.nnx.GroupedConv2D(num_channels, **self._arguments(), rngs=rngs)

    def _arguments(self) -> dict[str, Any]:
        return {name: getattr(self._properties, name) for name in FIELDS}


groupedConvolution2dLayer = GroupedConvolution2DLayer  # noqa: N816


@dataclasses.dataclass(frozen=True)
class _SizeInitializer:
    """A function of MATLAB's form ``func(sz)`` as an initializer of JAX's form."""

    property: str
    function: Callable[[tuple[int, ...]], Any]

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        """Returns what the function returns for the shape; it has no use for the key."""
        del key
        values = self.function(shape)
        if not isinstance(values, np.ndarray | jax.Array) or jnp.iscomplexobj(values):
            raise TypeError(f"{self.property}(sz) must return a real array, got {values!r}")
        _mat_files.check_size(f"{self.property}(sz)", values.shape, shape)
        return jnp.asarray(values, dtype).reshape(shape)


_PROPERTIES = {
    name: value
    for name, value in vars(GroupedConvolution2DLayer).items()
    if isinstance(value, _Property)
}
# From the names that can be set to the arguments of `_Properties`.
_ARGUMENTS = {name: value.reads for name, value in _PROPERTIES.items() if not value.read_only}
_ARGUMENTS |= {"PaddingSize": "padding", "Padding": "padding"}
_MATLAB_NAMES = {argument: name for name, argument in _ARGUMENTS.items()}
_SECTIONS = {
    "": ["Name"],
    "Hyperparameters": [
        *("FilterSize", "NumGroups", "NumChannelsPerGroup", "NumFiltersPerGroup", "Stride"),
        *("DilationFactor", "PaddingMode", "PaddingSize", "PaddingValue"),
    ],
    "Learnable Parameters": ["Weights", "Bias"],
}


def _real_name(name: str, names: Iterable[str], error: type[Exception]) -> str:
    """The one of ``names`` that ``name`` is in another case."""
    for real in names:
        if real.lower() == name.lower():
            return real
    raise error(f"there is no property {name!r}{_checks.nearest(name, names)}")


def _argument(name: str, value: Any) -> Any:
    """The value of a property as the layer's own argument has it."""
    if name == "PaddingSize" and len(_checks.items(value) or ()) != 4:
        raise ValueError(f"PaddingSize must be (top, bottom, left, right), got {value!r}")
    if name in ("WeightsInitializer", "BiasInitializer") and callable(value):
        return _SizeInitializer(name, value)
    if name in ("Weights", "Bias"):
        if isinstance(value, list) and not value:
            return None
        if isinstance(value, np.ndarray | jax.Array):
            axes = 5 if name == "Weights" else 4
            dropped = (1,) * (axes - value.ndim)
            return value.reshape(value.shape + dropped) if value.size else None
    return value


def _in_matlab_names(message: str) -> str:
    """An error's message, which speaks of the layer's own arguments, with MATLAB's names."""
    rule, got, received = message.partition(", got ")
    rule = re.sub(r"\w+", lambda word: _MATLAB_NAMES.get(word[0], word[0]), rule)
    return rule.replace("a callable (key, shape, dtype)", "a function of the size") + got + received


def _shown(value: Any) -> str:
    """A value as MATLAB displays it."""
    if value is None:
        return "[]"
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, tuple):
        return f"[{' '.join(map(str, value))}]"
    if not hasattr(value, "shape"):
        return str(value)
    size = list(value.shape)
    while size[-1] == 1 and len(size) > 2:
        size.pop()
    classes = {"float64": "double", "float32": "single", "float16": "half"}
    return f"[{'x'.join(map(str, size))} {classes.get(value.dtype.name, value.dtype.name)}]"
