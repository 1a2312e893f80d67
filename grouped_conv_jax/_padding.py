"""Padding: the number of pixels added on each side of an image, and their values."""

import dataclasses
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from grouped_conv_jax import _checks
from grouped_conv_jax.operation._description import is_known

Sides: TypeAlias = tuple[tuple[int, int], ...]
"""Pixels added (before, after) the image along each spatial axis."""

# NumPy's mode for each of our words.
_NUMPY_MODES = {
    "symmetric-include-edge": "symmetric",
    "symmetric-exclude-edge": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}
# Words of NumPy and PyTorch, and their equivalents here.
_ELSEWHERE = {mode: repr(word) for word, mode in _NUMPY_MODES.items()} | {
    "border": "'replicate'",
    "constant": "a number",
    "zeros": "0",
}
# Names of the spatial axes, by the number of axes.
AXES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
_RULES = {
    1: "'same', 'valid', 'causal', a nonnegative integer p or ((before, after),)",
    2: (
        "'same', 'valid', a nonnegative integer p, (a, b) = (top and bottom, left and right), "
        "(t, b, l, r) or ((t, b), (l, r))"
    ),
    3: (
        "'same', 'valid', a nonnegative integer p, three of them (one per axis, both sides) or "
        "three pairs (before, after)"
    ),
}


@dataclasses.dataclass(frozen=True)
class Padding:
    """The pixels to add around an image; static and hashable.

    Attributes:
        sides: the number of pixels, or a word if it depends on the image and the filter.
        value: a number, or a word for how the image continues.
        axes: the number of spatial axes.
    """

    sides: Sides | Literal["same", "causal"]
    value: float | int | str
    axes: int

    @classmethod
    def parse(cls, padding: Any, padding_value: Any, axes: int) -> "Padding":
        """Parses the arguments ``padding`` and ``padding_value``.

        Raises:
            TypeError: an argument is of the wrong kind.
            ValueError: an argument has a wrong value.
        """
        return cls(_parse_sides(padding, axes), _parse_value(padding_value), axes)

    @property
    def mode(self) -> str:
        """``"same"``, ``"causal"`` or ``"manual"``."""
        return self.sides if isinstance(self.sides, str) else "manual"

    @property
    def size(self) -> tuple[int, ...]:
        """The pixels (before, after) along each axis, flattened; zeros if ``sides`` is a word."""
        if isinstance(self.sides, str):
            return (0, 0) * self.axes
        return tuple(width for side in self.sides for width in side)

    def resolve(
        self,
        image: tuple[int, ...],
        filter_size: tuple[int, ...],
        stride: tuple[int, ...],
        dilation: tuple[int, ...],
    ) -> Sides:
        """Returns the pixels to add to an image of the given spatial size."""
        if self.sides == "same":
            return tuple(map(_same, image, filter_size, stride, dilation))
        if self.sides == "causal":
            return tuple(((k - 1) * d, 0) for k, d in zip(filter_size, dilation, strict=True))
        return self.sides

    def apply(self, x: jax.Array, sides: Sides) -> tuple[jax.Array, Sides]:
        """Pads ``x`` unless the convolution's own zero padding suffices.

        Args:
            x: ``(..., *spatial, C)``.
            sides: the result of :meth:`resolve`.

        Returns:
            The padded input, and the zero padding that the convolution still has to add.

        Raises:
            ValueError: a mirrored or wrapped border is longer than the image, or the padding value
                overflows the dtype.
        """
        first = x.ndim - 1 - self.axes
        nothing = ((0, 0),) * self.axes
        known = all(map(is_known, x.shape[first:-1]))
        if (self.value == 0 and known) or not any(width != 0 for side in sides for width in side):
            return x, sides
        if isinstance(self.value, str):
            return self._continue(x, sides, first), nothing
        with np.errstate(over="ignore"):
            fill = np.asarray(self.value, np.float64).astype(x.dtype)
        if not np.isfinite(fill):
            raise ValueError(
                f"padding_value must be representable in the input's dtype {x.dtype}, "
                f"got {self.value!r}"
            )
        edges = [(0, 0, 0)] * first + [(*side, 0) for side in sides] + [(0, 0, 0)]
        return jax.lax.pad(x, fill, edges), nothing

    def _continue(self, x: jax.Array, sides: Sides, first: int) -> jax.Array:
        """Continues the image on each side, as ``np.pad`` does."""
        widths = [width for side in sides for width in side]
        if not all(map(is_known, (*x.shape[first:-1], *widths))):
            return self._gather(x, sides, first)
        self._check_fits(x.shape[first:-1], sides)
        if self.value != "replicate":
            mode = _NUMPY_MODES[str(self.value)]
            return jnp.pad(x, [(0, 0)] * first + [*sides, (0, 0)], mode=mode)
        # Slices and concatenations, which every model converter supports.
        for axis, (before, after) in enumerate(sides, first):
            start = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
            end = jax.lax.slice_in_dim(x, x.shape[axis] - 1, None, axis=axis)
            x = jax.lax.concatenate([start] * before + [x] + [end] * after, axis)
        return x

    def _gather(self, x: jax.Array, sides: Sides, first: int) -> jax.Array:
        """Does the same for symbolic sizes."""
        # Indices are mirrored about a pixel or about the edge between two.
        on_edge = int(self.value == "symmetric-include-edge")
        for axis, (before, after) in enumerate(sides, first):
            size = x.shape[axis]
            index = jnp.arange(size + before + after) - before
            if self.value == "replicate":
                index = jnp.clip(index, 0, size - 1)
            elif self.value == "circular":
                index %= size
            index = jnp.where(index < 0, -index - on_edge, index)
            index = jnp.where(index >= size, 2 * size - 2 + on_edge - index, index)
            x = jnp.take(x, index, axis)
        return x

    def _check_fits(self, image: tuple[int, ...], sides: Sides) -> None:
        if self.value == "replicate":
            return
        for axis, size, widths in zip(AXES[self.axes], image, sides, strict=True):
            available = size - 1 if self.value == "symmetric-exclude-edge" else size
            if max(widths) > available:
                raise ValueError(
                    f"padding with padding_value={self.value!r} must add at most {available} "
                    f"on each side of an image of {axis} {size}, got {widths}"
                )


def _same(size: int, filter_size: int, stride: int, dilation: int) -> tuple[int, int]:
    """The padding that gives ``ceil(size / stride)`` outputs; an odd pixel goes to the end."""
    extent = (filter_size - 1) * dilation + 1
    if not is_known(size):
        # lax supports the maximum of symbolic sizes, which is slow.
        ((before, after),) = jax.lax.padtype_to_pads((size,), (extent,), (stride,), "SAME")
        return before, after
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2


def _parse_sides(padding: Any, axes: int) -> Sides | Literal["same", "causal"]:
    rule = f"padding must be {_RULES[axes]}"
    if isinstance(padding, str):
        words = ("same", "valid", "causal") if axes == 1 else ("same", "valid")
        word = _checks.word("padding", padding, words, "nonnegative integers")
        return ((0, 0),) * axes if word == "valid" else "same" if word == "same" else "causal"
    sizes = _checks.items(padding)
    if sizes is None:
        sizes = (padding,) * axes
    elif axes == 2 and len(sizes) == 4 and not any(map(_checks.items, sizes)):
        sizes = (sizes[:2], sizes[2:])
    if not any(map(_checks.items, sizes)):
        sizes = tuple((size, size) for size in sizes)
    pairs = [_checks.items(size) or () for size in sizes]
    widths = [width for pair in pairs for width in pair]
    is_one_pair_per_axis = len(pairs) == axes and all(len(pair) == 2 for pair in pairs)
    if not is_one_pair_per_axis or any(_checks.items(width) is not None for width in widths):
        raise ValueError(f"{rule}, got {padding!r}")
    return tuple(
        (_checks.integer("padding", before, 0), _checks.integer("padding", after, 0))
        for before, after in pairs
    )


def _parse_value(value: Any) -> float | int | str:
    if isinstance(value, str):
        return _checks.word("padding_value", value, tuple(_NUMPY_MODES), "a number", _ELSEWHERE)
    if np.ndim(value) != 0:
        raise ValueError(f"padding_value must be a scalar or a word, got {value!r}")
    return _checks.number("padding_value", value, _checks.FINITE)
