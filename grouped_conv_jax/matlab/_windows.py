"""Layers that slide a window over the image; `GroupedConv2D` checks their properties."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import grouped_conv_jax.linen
from grouped_conv_jax import _checks
from grouped_conv_jax.matlab import _values
from grouped_conv_jax.matlab._initializers import InMatlabSize, same
from grouped_conv_jax.matlab._layer import Layer
from grouped_conv_jax.matlab._properties import Property
from grouped_conv_jax.matlab._values import integral


def _four_numbers(name: str, value: Any) -> Any:
    if len(_checks.items(value) or ()) != 4:
        raise ValueError(f"{name} must be (top, bottom, left, right), got {value!r}")
    return _values.to_integers(value)


class Window(Layer):
    """Base of layers with a filter or a pooling region, a stride and a padding."""

    Stride = Property("(vertical, horizontal) step between outputs, in pixels.", integral, (1, 1))
    Padding = Property("'same', or (top, bottom, left, right).", integral, 0)
    PaddingMode = Property("'manual' or 'same'.", read_only=True, follows="Padding")
    PaddingSize = Property(
        "(top, bottom, left, right); zeros in mode 'same'.", _four_numbers, follows="Padding"
    )

    _arguments: ClassVar[Mapping[str, str]] = {"Stride": "stride", "Padding": "padding"}
    """The corresponding argument of `GroupedConv2D` for each property."""

    _fixed: ClassVar[Mapping[str, Any]] = {}
    """Constant arguments of `GroupedConv2D`, which no property sets."""

    _size_of = staticmethod(same)
    """Maps the shape of a learnable to its size in MATLAB."""

    def _resolve(self, values: dict[str, Any]) -> dict[str, Any]:
        try:
            checked = grouped_conv_jax.linen.GroupedConv2D(
                **self._convolution_arguments(values), parent=None
            )
        except TypeError as error:
            raise TypeError(self._in_matlab_names(str(error))) from None
        except ValueError as error:
            raise ValueError(self._in_matlab_names(str(error))) from None
        resolved = {
            name: getattr(checked, argument)
            for name, argument in self._arguments.items()
            if isinstance(values[name], str | int | float | tuple | list)
        }
        return (
            values
            | resolved
            | {
                "Padding": "same" if checked.padding_mode == "same" else checked.padding_size,
                "PaddingMode": checked.padding_mode,
                "PaddingSize": checked.padding_size,
            }
        )

    def _convolution_arguments(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Converts property values to arguments of `GroupedConv2D`."""
        arguments = {
            argument: (
                InMatlabSize(name, values[name], self._size_of)
                if callable(values[name])
                else values[name]
            )
            for name, argument in self._arguments.items()
        }
        return {**self._fixed, **arguments}

    @classmethod
    def _in_matlab_names(cls, message: str) -> str:
        """Replaces the arguments of `GroupedConv2D` in an error message by MATLAB's names."""
        names = {argument: name for name, argument in cls._arguments.items()}
        rule, got, received = message.partition(", got ")
        rule = re.sub(r"\w+", lambda found: names.get(found[0], found[0]), rule)
        rule = rule.replace("a callable (key, shape, dtype)", "a function of the size")
        return rule + got + received

    def _stride_and_padding(self) -> str:
        """Formats stride and padding, for tables."""
        padding = "'same'" if self.PaddingMode == "same" else _spaced(self.PaddingSize)
        return f"with stride {_spaced(self.Stride)} and padding {padding}"


def _spaced(numbers: tuple[int, ...]) -> str:
    return f"[{'  '.join(map(str, numbers))}]"
