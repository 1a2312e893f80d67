"""Data formats: from any order of axes to ``(..., *spatial, C)`` and back."""

import dataclasses
from typing import Any

import jax

_ALIASES = {"NHWC": "BSSC", "NCHW": "BCSS"}
_TIMES = {1: "once", 2: "twice", 3: "three times"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where each axis of a batch of images stands.

    Attributes:
        data_format: one letter an axis: ``S`` (a spatial axis; depth, height, width), ``C``, ``B``,
            ``T``, ``U``.
    """

    data_format: str

    @classmethod
    def parse(cls, data_format: Any, axes: int) -> "Layout":
        """Returns the layout that ``data_format`` describes; raises where it describes none.

        Args:
            data_format: the letters, in any case, or an alias.
            axes: the number of spatial axes.
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
        # Some letters outside ASCII become an S in upper case, or two.
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
        """The axes of an array with ``ndim`` axes in canonical order: carried, spatial, C."""
        leading = ndim - len(self.data_format) + 1 if self.data_format.startswith("B") else 0
        rest = self.data_format[1:] if self.data_format.startswith("B") else self.data_format
        where = list(range(leading))
        where += [leading + i for i, letter in enumerate(rest) if letter in "BTU"]
        where += [leading + i for i, letter in enumerate(rest) if letter == "S"]
        where.append(leading + rest.index("C"))
        return tuple(where)

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
    """The letters of ``(B, *spatial, C)``."""
    return f"B{'S' * axes}C"


def _transpose(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    # Eagerly, even a transposition that moves nothing takes time.
    return x if axes == tuple(range(x.ndim)) else jax.lax.transpose(x, axes)
