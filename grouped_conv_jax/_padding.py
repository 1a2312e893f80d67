"""Padding: how many rows and columns are added on each side, and what they hold."""

import dataclasses
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from grouped_conv_jax import _checks
from grouped_conv_jax._convolution import is_known

Sides: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
"""Rows added at the (top, bottom), columns added at the (left, right)."""

# Our words, and NumPy's mode for each.
_NUMPY_MODES = {
    "symmetric-include-edge": "symmetric",
    "symmetric-exclude-edge": "reflect",
    "replicate": "edge",
}


@dataclasses.dataclass(frozen=True)
class Padding:
    """What to add around an image, static and hashable.

    Attributes:
        sides: how much, or ``None`` for ``"same"``, which depends on the image's size.
        value: a number, or one of the words for repeating the image.
    """

    sides: Sides | None
    value: float | int | str

    @classmethod
    def parse(cls, padding: Any, padding_value: Any) -> "Padding":
        """Returns the padding that the two arguments describe; raises where they do not."""
        return cls(_parse_sides(padding), _parse_value(padding_value))

    @property
    def mode(self) -> str:
        """``"same"`` or ``"manual"``."""
        return "same" if self.sides is None else "manual"

    @property
    def size(self) -> tuple[int, int, int, int]:
        """(top, bottom, left, right); zeros for ``"same"``, whose sizes the input decides."""
        (top, bottom), (left, right) = self.sides or ((0, 0), (0, 0))
        return top, bottom, left, right

    def resolve(
        self,
        image: tuple[int, int],
        filter_size: tuple[int, int],
        stride: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Sides:
        """Returns the rows and columns to add to an image of the given (height, width)."""
        if self.sides is not None:
            return self.sides
        vertical, horizontal = (
            _same(*sizes) for sizes in zip(image, filter_size, stride, dilation, strict=True)
        )
        return vertical, horizontal

    def apply(self, x: jax.Array, sides: Sides) -> tuple[jax.Array, Sides]:
        """Adds what a convolution's own zero padding cannot.

        Args:
            x: ``(..., H, W, C)``.
            sides: what :meth:`resolve` returned.

        Returns:
            The padded input, and the zero padding that is left to the convolution.

        Raises:
            ValueError: a mirror is longer than the image, or a number is too large for the dtype.
        """
        known = all(map(is_known, x.shape[-3:-1]))
        if (self.value == 0 and known) or not any(width != 0 for side in sides for width in side):
            return x, sides
        if isinstance(self.value, str):
            return self._continue(x, sides), ((0, 0), (0, 0))
        with np.errstate(over="ignore"):
            fill = np.asarray(self.value, np.float64).astype(x.dtype)
        if not np.isfinite(fill):
            raise ValueError(
                f"padding_value must be representable in the input's dtype {x.dtype}, "
                f"got {self.value!r}"
            )
        edges = [(0, 0, 0)] * (x.ndim - 3) + [(*side, 0) for side in sides] + [(0, 0, 0)]
        return jax.lax.pad(x, fill, edges), ((0, 0), (0, 0))

    def _continue(self, x: jax.Array, sides: Sides) -> jax.Array:
        """Adds pixels of the image, as ``np.pad`` does."""
        if not all(map(is_known, (*x.shape[-3:-1], *sides[0], *sides[1]))):
            return self._gather(x, sides)
        self._check_mirror(x.shape, sides)
        if self.value != "replicate":
            widths = [(0, 0)] * (x.ndim - 3) + [*sides, (0, 0)]
            return jnp.pad(x, widths, mode=_NUMPY_MODES[str(self.value)])
        # In operations that every converter of programs knows.
        for axis, (before, after) in zip((x.ndim - 3, x.ndim - 2), sides, strict=True):
            first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
            last = jax.lax.slice_in_dim(x, x.shape[axis] - 1, None, axis=axis)
            x = jax.lax.concatenate([first] * before + [x] + [last] * after, axis)
        return x

    def _gather(self, x: jax.Array, sides: Sides) -> jax.Array:
        """The same for sizes that an exported program does not know."""
        # The axis about which indices are mirrored lies on a pixel, or between two.
        on_edge = int(self.value == "symmetric-include-edge")
        for axis, (before, after) in zip((x.ndim - 3, x.ndim - 2), sides, strict=True):
            size = x.shape[axis]
            index = jnp.arange(size + before + after) - before
            if self.value == "replicate":
                index = jnp.clip(index, 0, size - 1)
            index = jnp.where(index < 0, -index - on_edge, index)
            index = jnp.where(index >= size, 2 * size - 2 + on_edge - index, index)
            x = jnp.take(x, index, axis)
        return x

    def _check_mirror(self, shape: tuple[int, ...], sides: Sides) -> None:
        for axis, size, widths in zip(("height", "width"), shape[-3:-1], sides, strict=True):
            if self.value == "replicate":
                continue
            available = size - 1 if self.value == "symmetric-exclude-edge" else size
            if max(widths) > available:
                raise ValueError(
                    f"padding with padding_value={self.value!r} must add at most {available} "
                    f"on each side of an image of {axis} {size}, got {widths}"
                )


def _same(size: int, filter_size: int, stride: int, dilation: int) -> tuple[int, int]:
    """Output ``ceil(size / stride)``; the odd row or column goes to the bottom or right."""
    extent = (filter_size - 1) * dilation + 1
    if not is_known(size):
        # Lax knows the maximum of symbols, but takes its time.
        ((before, after),) = jax.lax.padtype_to_pads((size,), (extent,), (stride,), "SAME")
        return before, after
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2


def _parse_sides(padding: Any) -> Sides | None:
    rule = (
        "padding must be 'same', 'valid', a nonnegative integer p, (a, b) = (top and bottom, left "
        "and right), (t, b, l, r) or ((t, b), (l, r))"
    )
    if isinstance(padding, str):
        word = _checks.word("padding", padding, ("same", "valid"), "nonnegative integers")
        return None if word == "same" else ((0, 0), (0, 0))
    sizes = _checks.items(padding)
    if sizes is None:
        sizes = (padding,) * 4
    elif len(sizes) == 2:
        pairs = [_checks.items(entry) for entry in sizes]
        if pairs == [None, None]:
            sizes = (sizes[0], sizes[0], sizes[1], sizes[1])
        elif all(pair is not None and len(pair) == 2 for pair in pairs):
            sizes = tuple(size for pair in pairs if pair for size in pair)
    if len(sizes) != 4 or any(_checks.items(size) is not None for size in sizes):
        raise ValueError(f"{rule}, got {padding!r}")
    top, bottom, left, right = (_checks.integer("padding", size, 0) for size in sizes)
    return (top, bottom), (left, right)


def _parse_value(value: Any) -> float | int | str:
    if isinstance(value, str):
        return _checks.word("padding_value", value, tuple(_NUMPY_MODES), "a number")
    if np.ndim(value) != 0:
        raise ValueError(f"padding_value must be a scalar or a word, got {value!r}")
    return _checks.finite_number("padding_value", value)
