"""Converts weights and biases between other frameworks' order of axes and ours."""

from typing import Any, TypeVar

import jax
import numpy as np
import numpy.typing as npt

from grouped_conv_jax import _checks
from grouped_conv_jax.convert._mat_files import check_size, shapes

Array = TypeVar("Array", npt.NDArray[Any], jax.Array)

_WEIGHTS_AXES = "(h, w, channels_per_group, filters_per_group, groups)"
_BIAS_AXES = "(1, 1, filters_per_group, groups)"


def from_hwio(kernel: Array, groups: int) -> Array:
    """Converts a grouped kernel of JAX or Flax, or of a Keras ``Conv2D``.

    Args:
        kernel: ``(h, w, channels_per_group, groups * filters_per_group)``.
        groups: the number of groups.

    Returns:
        Weights ``(h, w, channels_per_group, filters_per_group, groups)``.

    Raises:
        TypeError: ``kernel`` is not an array or ``groups`` not an integer.
        ValueError: ``kernel`` has other axes, or ``groups`` does not divide its output channels.

    Example:
        >>> import numpy as np
        >>> from_hwio(np.zeros((3, 3, 2, 12)), groups=4).shape
        (3, 3, 2, 3, 4)
    """
    _check_axes("kernel", kernel, "(h, w, channels_per_group, groups * filters_per_group)")
    filters = _filters_per_group("kernel", kernel.shape, kernel.shape[-1], groups)
    return kernel.reshape(*kernel.shape[:3], groups, filters).transpose(0, 1, 2, 4, 3)


def to_hwio(weights: Array) -> Array:
    """Converts weights to a kernel for JAX or Flax; the inverse of `from_hwio`.

    Args:
        weights: ``(h, w, channels_per_group, filters_per_group, groups)``.

    Returns:
        A kernel ``(h, w, channels_per_group, groups * filters_per_group)``.

    Raises:
        TypeError: ``weights`` is not an array.
        ValueError: ``weights`` has other axes.

    Example:
        >>> import numpy as np
        >>> to_hwio(np.zeros((3, 3, 2, 3, 4))).shape
        (3, 3, 2, 12)
    """
    h, w, channels, filters, groups = _check_axes("weights", weights, _WEIGHTS_AXES)
    return weights.transpose(0, 1, 2, 4, 3).reshape(h, w, channels, groups * filters)


def from_oihw(kernel: Array, groups: int) -> Array:
    """Converts a kernel of PyTorch or ONNX.

    Args:
        kernel: ``(groups * filters_per_group, channels_per_group, h, w)``.
        groups: the number of groups.

    Returns:
        Weights ``(h, w, channels_per_group, filters_per_group, groups)``.

    Raises:
        TypeError: ``kernel`` is not an array or ``groups`` not an integer.
        ValueError: ``kernel`` has other axes, or ``groups`` does not divide its output channels.

    Example:
        >>> import numpy as np
        >>> from_oihw(np.zeros((12, 2, 3, 3)), groups=4).shape
        (3, 3, 2, 3, 4)
    """
    _check_axes("kernel", kernel, "(groups * filters_per_group, channels_per_group, h, w)")
    filters = _filters_per_group("kernel", kernel.shape, kernel.shape[0], groups)
    return kernel.reshape(groups, filters, *kernel.shape[1:]).transpose(3, 4, 2, 1, 0)


def to_oihw(weights: Array) -> Array:
    """Converts weights to a kernel for PyTorch or ONNX; the inverse of `from_oihw`.

    Args:
        weights: ``(h, w, channels_per_group, filters_per_group, groups)``.

    Returns:
        A kernel ``(groups * filters_per_group, channels_per_group, h, w)``.

    Raises:
        TypeError: ``weights`` is not an array.
        ValueError: ``weights`` has other axes.

    Example:
        >>> import numpy as np
        >>> to_oihw(np.zeros((3, 3, 2, 3, 4))).shape
        (12, 2, 3, 3)
    """
    h, w, channels, filters, groups = _check_axes("weights", weights, _WEIGHTS_AXES)
    return weights.transpose(4, 3, 2, 0, 1).reshape(groups * filters, channels, h, w)


def from_keras_depthwise(kernel: Array) -> Array:
    """Converts a kernel of a Keras ``DepthwiseConv2D``, where every channel is a group.

    Args:
        kernel: ``(h, w, channels, depth_multiplier)``.

    Returns:
        Weights ``(h, w, 1, depth_multiplier, channels)``.

    Raises:
        TypeError: ``kernel`` is not an array.
        ValueError: ``kernel`` has other axes.

    Example:
        >>> import numpy as np
        >>> from_keras_depthwise(np.zeros((3, 3, 8, 2))).shape
        (3, 3, 1, 2, 8)
    """
    h, w, groups, filters = _check_axes("kernel", kernel, "(h, w, channels, depth_multiplier)")
    return kernel.reshape(h, w, 1, groups, filters).transpose(0, 1, 2, 4, 3)


def to_keras_depthwise(weights: Array) -> Array:
    """Converts channel-wise weights to Keras; the inverse of `from_keras_depthwise`.

    Args:
        weights: ``(h, w, 1, filters_per_group, groups)``.

    Returns:
        A kernel ``(h, w, channels, depth_multiplier)``, that is ``(h, w, groups,
        filters_per_group)``.

    Raises:
        TypeError: ``weights`` is not an array.
        ValueError: ``weights`` has other axes, or more than one channel in a group.

    Example:
        >>> import numpy as np
        >>> to_keras_depthwise(np.zeros((3, 3, 1, 2, 8))).shape
        (3, 3, 8, 2)
    """
    h, w, channels, filters, groups = _check_axes("weights", weights, _WEIGHTS_AXES)
    if channels != 1:
        raise ValueError(
            f"weights must have one channel per group to be depthwise, got {channels} in weights "
            f"of shape {weights.shape}"
        )
    return weights.transpose(0, 1, 2, 4, 3).reshape(h, w, groups, filters)


def from_matlab(
    array: Array,
    filter_size: int | tuple[int, int],
    num_channels_per_group: int,
    num_filters_per_group: int,
    num_groups: int,
) -> Array:
    """Restores the trailing axes of size one that MATLAB drops from an array of weights.

    Args:
        array: ``(h, w, channels_per_group, filters_per_group, groups)``, possibly without trailing
            axes of size one.
        filter_size: ``h`` and ``w``, or one integer for both.
        num_channels_per_group: ``channels_per_group``.
        num_filters_per_group: ``filters_per_group``.
        num_groups: ``groups``.

    Returns:
        Weights ``(h, w, channels_per_group, filters_per_group, groups)``.

    Raises:
        TypeError: ``array`` is not an array, or a size is not an integer.
        ValueError: the shape of ``array`` does not match the sizes.

    Example:
        >>> import numpy as np
        >>> from_matlab(np.zeros((3, 3, 2)), 3, 2, 1, 1).shape
        (3, 3, 2, 1, 1)
    """
    _check_is_array("array", array)
    expected, _ = shapes(filter_size, num_channels_per_group, num_filters_per_group, num_groups)
    check_size("array", array.shape, expected)
    return array.reshape(expected)


def to_matlab(weights: Array) -> Array:
    """Checks weights for MATLAB, which has the same five axes; the inverse of `from_matlab`.

    Args:
        weights: ``(h, w, channels_per_group, filters_per_group, groups)``.

    Returns:
        The weights. Saving them drops trailing axes of size one, as MATLAB does.

    Raises:
        TypeError: ``weights`` is not an array.
        ValueError: ``weights`` has other axes.

    Example:
        >>> import numpy as np
        >>> to_matlab(np.zeros((3, 3, 2, 1, 1))).shape
        (3, 3, 2, 1, 1)
    """
    _check_axes("weights", weights, _WEIGHTS_AXES)
    return weights


def from_bias_vector(bias: Array, groups: int) -> Array:
    """Converts a bias with one number per output channel, as in Flax, PyTorch and Keras.

    Args:
        bias: ``(groups * filters_per_group,)``.
        groups: the number of groups.

    Returns:
        A bias ``(1, 1, filters_per_group, groups)``.

    Raises:
        TypeError: ``bias`` is not an array or ``groups`` not an integer.
        ValueError: ``bias`` is not a vector, or ``groups`` does not divide its length.

    Example:
        >>> import numpy as np
        >>> from_bias_vector(np.array([0, 1, 10, 11, 20, 21]), groups=3)[0, 0]
        array([[ 0, 10, 20],
               [ 1, 11, 21]])
    """
    _check_axes("bias", bias, "(groups * filters_per_group,)")
    filters = _filters_per_group("bias", bias.shape, bias.shape[0], groups)
    return bias.reshape(1, 1, groups, filters).transpose(0, 1, 3, 2)


def to_bias_vector(bias: Array) -> Array:
    """Converts a bias to one number per output channel; the inverse of `from_bias_vector`.

    Args:
        bias: ``(1, 1, filters_per_group, groups)``.

    Returns:
        A vector ``(groups * filters_per_group,)``.

    Raises:
        TypeError: ``bias`` is not an array.
        ValueError: ``bias`` has other axes.

    Example:
        >>> import numpy as np
        >>> to_bias_vector(np.array([[[[0, 10, 20], [1, 11, 21]]]]))
        array([ 0,  1, 10, 11, 20, 21])
    """
    *ones, _, _ = _check_axes("bias", bias, _BIAS_AXES)
    if ones != [1, 1]:
        raise ValueError(f"bias must have the axes {_BIAS_AXES}, got shape {bias.shape}")
    return bias.transpose(0, 1, 3, 2).reshape(-1)


def _check_is_array(name: str, array: Any) -> None:
    if not isinstance(array, np.ndarray | jax.Array):
        raise TypeError(f"{name} must be a NumPy or a JAX array, got {type(array).__name__}")


def _check_axes(name: str, array: Any, axes: str) -> tuple[int, ...]:
    """Returns the shape of an array, which must have the listed axes, none of them empty."""
    _check_is_array(name, array)
    if array.ndim != len(axes.split(", ")) or 0 in array.shape:
        raise ValueError(
            f"{name} must have the axes {axes}, none of them empty, got shape {array.shape}"
        )
    return tuple(array.shape)


def _filters_per_group(name: str, shape: tuple[int, ...], channels: int, groups: int) -> int:
    """Returns the number of output channels per group."""
    groups = _checks.integer("groups", groups, 1)
    if channels % groups:
        raise ValueError(
            f"groups={groups} must divide the number of output channels, got {channels} in {name} "
            f"of shape {shape}"
        )
    return channels // groups
