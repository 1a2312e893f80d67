"""The image input layer and its normalization."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from grouped_conv_jax import _checks
from grouped_conv_jax.matlab import _display, _linen_modules, _nnx_modules, _values
from grouped_conv_jax.matlab._layer import Layer, Operation, Size
from grouped_conv_jax.matlab._operations import STATISTICS
from grouped_conv_jax.matlab._properties import Property

_NORMALIZATIONS = tuple(STATISTICS)
_STARTS = {"Mean": 0.0, "StandardDeviation": 1.0, "Min": 0.0, "Max": 1.0}
_NUMPY: dict[str, Callable[..., Any]] = {
    "Mean": np.mean,
    "StandardDeviation": np.std,
    "Min": np.min,
    "Max": np.max,
}
_STATISTIC = _values.array(3)


def _input_size(name: str, value: Any) -> tuple[int, ...]:
    sizes = _checks.items(_values.to_integers(value))
    if sizes is None or len(sizes) != 3:
        raise ValueError(f"{name} must be (height, width, channels), got {value!r}")
    return tuple(_checks.integer(f"{name}[{i}]", size, 1) for i, size in enumerate(sizes))


def _statistic_sizes(input_size: Size) -> list[Size]:
    return [input_size, (1, 1, input_size[-1]), (1, 1, 1)]


class ImageInputLayer(Layer):
    """Declares the size of the images and normalizes them.

    `imageInputLayer` is an alias of this class.

    Args:
        inputSize: (height, width, channels).
        *pairs: properties as ``'Name', value`` pairs.
        **properties: ``Name``, and

            - ``Normalization``: ``'zerocenter'`` subtracts ``Mean``; ``'zscore'`` also divides by
              ``StandardDeviation``; ``'rescale-symmetric'`` and ``'rescale-zero-one'`` map the
              range from ``Min`` to ``Max`` to [-1, 1] and [0, 1]; ``'none'``; or a function of a
              batch ``(B, H, W, C)``.
            - ``NormalizationDimension``: the granularity of the statistics that `trainNetwork`
              computes: ``'auto'`` and ``'channel'`` per channel, ``'element'`` per element of the
              images, ``'all'`` over everything.
            - ``Mean``, ``StandardDeviation``, ``Min``, ``Max``: arrays of size ``(H, W, C)``,
              ``(1, 1, C)`` or ``(1, 1, 1)``. `trainNetwork` sets them; until then ``Mean`` and
              ``Min`` act as 0, the other two as 1.

    Raises:
        TypeError: a name is unknown, read-only or repeated, or a value has the wrong type.
        ValueError: a value is invalid.

    Example:
        >>> from grouped_conv_jax.matlab import imageInputLayer
        >>> print(imageInputLayer([28, 28, 1]))
          ImageInputLayer with properties:
        <BLANKLINE>
                              Name: ''
                         InputSize: [28 28 1]
        <BLANKLINE>
           Hyperparameters
                     Normalization: 'zerocenter'
            NormalizationDimension: 'auto'
                              Mean: []
    """

    InputSize = Property("(height, width, channels) of the images.", _input_size)
    Normalization = Property(
        "Name of a normalization, or a function.",
        _values.word(*_NORMALIZATIONS, also="a function", takes=callable),
        "zerocenter",
    )
    NormalizationDimension = Property(
        "Granularity of the statistics.",
        _values.word("auto", "channel", "element", "all"),
        "auto",
    )
    Mean = Property("For 'zerocenter' and 'zscore', or None.", _STATISTIC, None)
    StandardDeviation = Property("For 'zscore', or None.", _STATISTIC, None)
    Min = Property("For the rescaling normalizations, or None.", _STATISTIC, None)
    Max = Property("For the rescaling normalizations, or None.", _STATISTIC, None)

    _positional = ("InputSize",)
    _default_name = "imageinput"
    _title = "Image Input"

    @property
    def _sections(self) -> Mapping[str, tuple[str, ...]]:  # type: ignore[override]
        return {
            "": ("Name", "InputSize"),
            "Hyperparameters": (
                "Normalization",
                "NormalizationDimension",
                *STATISTICS.get(self.Normalization, ()),
            ),
        }

    def _resolve(self, values: dict[str, Any]) -> dict[str, Any]:
        sizes = _statistic_sizes(values["InputSize"])
        for name in _STARTS:
            if values[name] is not None and values[name].shape not in sizes:
                raise ValueError(
                    f"{name} must have size {sizes[0]}, {sizes[1]} or {sizes[2]}, "
                    f"got {values[name].shape}"
                )
        return values

    def statistics(self) -> dict[str, jax.Array]:
        """Returns the statistics that the normalization uses, or their initial values."""
        arrays = {}
        for name in self._required():
            array = getattr(self, name)
            if array is None:
                array = np.full((1, 1, self.InputSize[-1]), _STARTS[name])
            arrays[name] = jnp.asarray(array, jnp.float32)
        return arrays

    def is_measured(self) -> bool:
        """Returns whether the statistics that the normalization uses are set."""
        return all(getattr(self, name) is not None for name in self._required())

    def measure(self, images: Any) -> None:
        """Sets the statistics from training images ``(B, H, W, C)``."""
        axes = {"element": (0,), "all": None}.get(self.NormalizationDimension, (0, 1, 2))
        for name in self._required():
            floats = {"dtype": np.float64} if name in ("Mean", "StandardDeviation") else {}
            value = np.asarray(_NUMPY[name](images, axis=axes, **floats), np.float32)
            shape = self.InputSize if axes == (0,) else (1, 1, value.size)
            setattr(self, name, value.reshape(shape))

    def _linen(self, train: bool | None) -> Operation:
        del train
        return _linen_modules.Normalization(self, name=self.Name or None)

    def _nnx(self, size: Size, rngs: nnx.Rngs) -> Operation:
        del size, rngs
        return _nnx_modules.Normalization(self)

    def _learned(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        return dict(variables.get("batch_stats", {}))

    def _required(self) -> Sequence[str]:
        return STATISTICS.get(self.Normalization, ())

    def _stored_sizes(self, learnables: Mapping[str, Size]) -> Mapping[str, Sequence[Size]]:
        del learnables
        return {name: _statistic_sizes(self.InputSize) for name in self._required()}

    def _describe(self) -> str:
        images = f"{'x'.join(map(str, self.InputSize))} images"
        if self.Normalization == "none":
            return images
        return f"{images} with {_display.format_value(self.Normalization)} normalization"


imageInputLayer = ImageInputLayer  # noqa: N816
