"""Data formats: conversion between any order of axes and ``(..., *spatial, C)``."""

import dataclasses
from typing import Any

import jax

_ALIASES = {"NHWC": "BSSC", "NCHW": "BCSS"}
_TIMES = {1: "once", 2: "twice", 3: "three times"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The order of the axes of a batch of images.

    Attributes:
        data_format: one letter per axis: ``S`` (a spatial axis, in the order depth, height,
            width), ``C``, ``B``, ``T``, ``U``.
    """

    data_format: str

    @classmethod
    def parse(cls, data_format: Any, axes: int) -> "Layout":
        """Parses the argument ``data_format``.

        Args:
            data_format: the letters, in any case, or an alias.
            axes: the number of spatial axes.

        Raises:
            TypeError: ``data_format`` is not a string.
            ValueError: ``data_format`` is not a data format with ``axes`` spatial axes.
        """
        rule = (
            f"data_format must hold 'S' {_TIMES[axes]}, 'C' once and each of 'B', 'T' and 'U' at "
            "most once"
        )
        rule += ", or be 'NHWC' or 'NCHW'" if axes == 2 else ""
        if not isinstance(data_format, str):
            raise TypeError(f"{rule}, got {data_format!r}")
        letters = _ALIASES.get(data_format.upper(), data_format.upper())
        counts = {letter: letters.count(letter) for letter in set(letters)}
        required = counts.pop("S", 0) == axes and counts.pop("C", 0) == 1
        # In upper case, some non-ASCII letters become one or two S.
        if (
            not data_format.isascii()
            or not required
            or set(counts) - set("BTU")
            or any(n > 1 for n in counts.values())
        ):
            raise ValueError(f"{rule}, got {data_format!r}")
        return cls(letters)

    def check_rank(self, shape: tuple[int, ...]) -> None:
        """Raises ``ValueError`` unless an array of this shape can have this format."""
        axes = len(self.data_format)
        if self.data_format.startswith("B"):
            if len(shape) < axes - 1:
                raise ValueError(
                    f"x must have at least {axes - 1} axes for data_format {self.data_format!r} "
                    f"(its leading B stands for any number of axes), got shape {shape}"
                )
        elif len(shape) != axes:
            raise ValueError(
                f"x must have {axes} axes for data_format {self.data_format!r}, got shape {shape}"
            )

    def _axes(self, ndim: int) -> tuple[int, ...]:
        """The axes of an array in canonical order: batch-like axes, spatial axes, channels."""
        leading = ndim - len(self.data_format) + 1 if self.data_format.startswith("B") else 0
        rest = self.data_format[1:] if self.data_format.startswith("B") else self.data_format
        order = list(range(leading))
        order += [leading + i for i, letter in enumerate(rest) if letter in "BTU"]
        order += [leading + i for i, letter in enumerate(rest) if letter == "S"]
        order.append(leading + rest.index("C"))
        return tuple(order)

    def num_channels(self, shape: tuple[int, ...]) -> int:
        """The number of channels of an array of this shape."""
        return shape[self._axes(len(shape))[-1]]

    def image_size(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The spatial size of an array of this shape."""
        axes = self._axes(len(shape))[-1 - self.data_format.count("S") : -1]
        return tuple(shape[axis] for axis in axes)

    def to_canonical(self, x: jax.Array) -> jax.Array:
        """Reorders the axes of ``x`` to ``(..., *spatial, C)``."""
        return _transpose(x, self._axes(x.ndim))

    def from_canonical(self, x: jax.Array) -> jax.Array:
        """The inverse of :meth:`to_canonical`."""
        axes = self._axes(x.ndim)
        return _transpose(x, tuple(axes.index(i) for i in range(x.ndim)))


def default_format(axes: int) -> str:
    """The data format of ``(B, *spatial, C)``."""
    return f"B{'S' * axes}C"


def _transpose(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    # An eager transpose costs time even if it moves nothing.
    return x if axes == tuple(range(x.ndim)) else jax.lax.transpose(x, axes)
