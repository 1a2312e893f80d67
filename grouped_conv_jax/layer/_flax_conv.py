"""Conversion between Flax's ``Conv`` and the arguments and learnables of a grouped convolution.

``flax.linen.Conv`` and ``flax.nnx.Conv`` have the same attributes, except for the number of
filters.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from grouped_conv_jax import _checks
from grouped_conv_jax._layout import default_format
from grouped_conv_jax.layer._hyperparameters import FACTORS, Hyperparameters
from grouped_conv_jax.operation._drop_in import conv_general_dilated

_WORDS = {"SAME": ("same", 0), "VALID": ("valid", 0), "CAUSAL": ("causal", 0)}
# Our padding_value for each of Flax's words for padding that continues the image.
_CONTINUED = {"CIRCULAR": "circular", "REFLECT": "symmetric-exclude-edge"}


def arguments_of(conv: Any, axes: int) -> dict[str, Any]:
    """Returns the arguments of the layer that is equivalent to ``conv``.

    Raises:
        TypeError: ``conv`` does not have the attributes of Flax's ``Conv``.
        ValueError: ``conv`` has another number of spatial axes, or it has an input dilation, a
            mask, a preferred element type or an unknown padding, which no layer supports.
    """
    if not hasattr(conv, "kernel_dilation"):
        raise TypeError(f"conv must be a Conv of Flax, got {type(conv).__name__}")
    filter_size = _checks.items(conv.kernel_size) or (conv.kernel_size,)
    if len(filter_size) != axes:
        raise ValueError(
            f"conv must have {axes} spatial axes, got kernel_size={conv.kernel_size!r}; "
            f"use GroupedConv{len(filter_size)}D"
        )
    dilated = _checks.per_axis("input_dilation", _or_one(conv.input_dilation), axes)
    if dilated != (1,) * axes or conv.mask is not None:
        raise ValueError(
            "conv must have input_dilation 1 and no mask, "
            f"got input_dilation={conv.input_dilation!r} and a mask {type(conv.mask).__name__}"
        )
    if getattr(conv, "preferred_element_type", None) is not None:
        raise ValueError(
            "conv must have no preferred_element_type, which no layer supports, "
            f"got {conv.preferred_element_type!r}"
        )
    dilation = _checks.per_axis("kernel_dilation", _or_one(conv.kernel_dilation), axes)
    padding, padding_value = _padding_of(conv.padding, filter_size, dilation)
    features = conv.features if hasattr(conv, "features") else conv.out_features
    return {
        "filter_size": filter_size,
        "num_filters_per_group": features // conv.feature_group_count,
        "num_groups": conv.feature_group_count,
        "stride": _or_one(conv.strides),
        "dilation_factor": dilation,
        "padding": padding,
        "padding_value": padding_value,
        "use_bias": conv.use_bias,
        "data_format": default_format(axes),
        "dtype": conv.dtype,
        "param_dtype": conv.param_dtype,
        "precision": conv.precision,
    }


def conv_arguments(layer: Hyperparameters) -> dict[str, Any]:
    """Returns the arguments of the ``Conv`` equivalent to a layer, except the channels.

    Raises:
        ValueError: Flax's ``Conv`` does not support the layer's padding or data format, or the
            layer's factors are not the default ones.
    """
    defaults = dict(zip(FACTORS, (1.0, 1.0, 1.0, 0.0), strict=True))
    factors = {name: getattr(layer, name) for name in defaults}
    lost = {name: factor for name, factor in factors.items() if factor != defaults[name]}
    if lost:
        raise ValueError(f"a Conv of Flax has no factors, got {lost}; set them to {defaults}")
    if layer.data_format != default_format(layer.axes):
        raise ValueError(
            f"data_format must be {default_format(layer.axes)!r} for a Conv of Flax, "
            f"got {layer.data_format!r}"
        )
    return {
        "kernel_size": layer.filter_size,
        "strides": layer.stride,
        "padding": _flax_padding(layer),
        "kernel_dilation": layer.dilation_factor,
        "feature_group_count": layer.num_groups,
        "use_bias": bool(layer.use_bias),
        "dtype": layer.dtype,
        "param_dtype": layer.param_dtype,
        "precision": layer.precision,
    } | ({} if layer.implementation == "lax" else {"conv_general_dilated": conv_general_dilated})


def to_weights(kernel: Any, groups: int) -> Any:
    """Converts Flax's kernel ``(*filter_size, C, G*F)`` to weights ``(*filter_size, C, F, G)``."""
    return kernel.reshape(*kernel.shape[:-1], groups, -1).swapaxes(-1, -2)


def to_kernel(weights: Any) -> Any:
    """The inverse of :func:`to_weights`."""
    return weights.swapaxes(-1, -2).reshape(*weights.shape[:-2], -1)


def to_bias(bias: Any, groups: int, axes: int) -> Any:
    """Converts Flax's bias ``(G*F,)`` to ``(*ones, F, G)``."""
    return to_weights(bias.reshape(*(1,) * axes, -1), groups)


def to_vector(bias: Any) -> Any:
    """The inverse of :func:`to_bias`."""
    return to_kernel(bias).reshape(-1)


@dataclasses.dataclass(frozen=True)
class FlaxInitializer:
    """Adapts an initializer of Flax's kernels or biases to the shapes of grouped layers.

    Attributes:
        initialize: the initializer of Flax's ``Conv``.
        name: ``"kernel"`` or ``"bias"``.
    """

    initialize: Callable[..., Any]
    name: str

    def __call__(self, key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """Returns weights ``(*filter_size, C, F, G)``, or a bias ``(*ones, F, G)``."""
        *front, filters, groups = shape
        outputs = groups * filters
        if self.name == "bias":
            return to_bias(self.initialize(key, (outputs,), dtype), groups, len(front))
        return to_weights(self.initialize(key, (*front, outputs), dtype), groups)


def _or_one(sizes: Any) -> Any:
    return 1 if sizes is None else sizes


def _padding_of(
    padding: Any, filter_size: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[Any, Any]:
    """Converts Flax's padding to our ``padding`` and ``padding_value``."""
    if isinstance(padding, str):
        # Flax hands these two to lax, which takes them in any case.
        if padding in _WORDS or padding.upper() in ("SAME", "VALID"):
            return _WORDS[padding.upper()]
        if padding in _CONTINUED:
            return _continued(filter_size, dilation), _CONTINUED[padding]
        words = ", ".join(map(repr, (*_WORDS, *_CONTINUED)))
        raise ValueError(f"padding of a Conv must be {words} or numbers, got {padding!r}")
    if _checks.items(padding) is None:
        return padding, 0
    return tuple(_checks.items(side) or (side, side) for side in padding), 0


def _continued(
    filter_size: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    """The sizes of Flax's ``"CIRCULAR"`` and ``"REFLECT"``, which ignore the stride."""
    extents = [(k - 1) * d + 1 for k, d in zip(filter_size, dilation, strict=True)]
    return tuple(((extent - 1) // 2, extent // 2) for extent in extents)


def _flax_padding(layer: Hyperparameters) -> Any:
    """Converts a layer's padding to Flax's."""
    border = layer.options.padding
    if border.mode == "manual" and not any(border.size):
        return "VALID"
    if border.value == 0:
        return border.mode.upper() if isinstance(border.sides, str) else border.sides
    filter_size = _checks.per_axis("filter_size", layer.filter_size, layer.axes)
    continued = _continued(filter_size, layer.options.dilation)
    # With stride 1, "same" has the same sizes.
    is_same = border.sides == "same" and set(layer.options.strides) == {1}
    words = {ours: word for word, ours in _CONTINUED.items()}
    if border.value not in words or not (is_same or border.sides == continued):
        raise ValueError(
            f"padding={layer.padding!r} with padding_value={layer.padding_value!r} must be a "
            "padding of Flax's Conv: zeros, or an image continued by half of the filter size"
        )
    return words[str(border.value)]
