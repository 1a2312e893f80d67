"""Grouped convolution as a pure function."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.typing import ArrayLike, DTypeLike

from grouped_conv_jax._layout import default_format
from grouped_conv_jax.operation import _call
from grouped_conv_jax.operation._options import Options


def grouped_conv(
    x: ArrayLike,
    weights: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: int | Sequence[int] = 1,
    dilation_factor: int | Sequence[int] = 1,
    padding: Any = 0,
    padding_value: float | str = 0,
    data_format: str | None = None,
    implementation: str | None = None,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array:
    """Convolves each group of channels with its own filters, in one to three spatial dimensions.

    Letters: ``B`` batch, ``C`` channels per group, ``F`` filters per group, ``G`` groups; ``n`` is
    the number of spatial dimensions, which follows from ``weights``.

    Args:
        x: input ``(B, *spatial, C*G)``, with axes ordered by ``data_format``.
        weights: ``(*filter size, C, F, G)``.
        bias: ``(*(1,) * n, F, G)``, or ``None``.
        stride: step between outputs, in pixels: a positive integer, or ``n`` of them.
        dilation_factor: distance between filter taps, in pixels, likewise.
        padding: ``"same"``, ``"valid"``, ``p``, ``n`` numbers (one per axis, for both sides) or
            ``n`` pairs (before, after), in pixels. In two dimensions also ``(t, b, l, r)``. In one
            dimension also ``"causal"``, which adds ``(filter size - 1) * dilation_factor`` pixels
            in front, so that output ``t`` depends on inputs up to ``t``.
        padding_value: as for :func:`grouped_conv2d`.
        data_format: as for :func:`grouped_conv2d`, with ``S`` repeated ``n`` times. By default
            ``B``, the spatial axes, ``C``.
        implementation: as for :func:`grouped_conv2d`.
        precision: as in ``jax.lax.conv_general_dilated``.
        preferred_element_type: as for :func:`grouped_conv2d`.

    Returns:
        ``(B, *spatial', F*G)`` in the same ``data_format``.

    Raises:
        TypeError: as :func:`grouped_conv2d`.
        ValueError: as :func:`grouped_conv2d`, or ``weights`` does not have four to six axes.

    Example:
        A causal moving sum over three steps, channel by channel:

        >>> import jax.numpy as jnp
        >>> from grouped_conv_jax import grouped_conv
        >>> x = jnp.arange(10.0).reshape(1, 5, 2)
        >>> y = grouped_conv(x, jnp.ones((3, 1, 1, 2)), padding="causal")
        >>> print(y[0].T)
        [[ 0.  2.  6. 12. 18.]
         [ 1.  4.  9. 15. 21.]]
    """
    arrays = _call.promote(x, weights, bias)
    axes = arrays[1].ndim - 3
    if axes not in (1, 2, 3):
        raise ValueError(
            "weights must have four to six axes (*filter size, channels per group, filters per "
            f"group, groups), got {arrays[1].shape}"
        )
    options = Options.parse(
        axes,
        stride=stride,
        dilation_factor=dilation_factor,
        padding=padding,
        padding_value=padding_value,
        data_format=default_format(axes) if data_format is None else data_format,
        implementation=implementation,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    return _call.apply(options, *arrays)


def grouped_conv2d(
    x: ArrayLike,
    weights: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: int | Sequence[int] = 1,
    dilation_factor: int | Sequence[int] = 1,
    padding: Any = 0,
    padding_value: float | str = 0,
    data_format: str = "BSSC",
    implementation: str | None = None,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array:
    """Convolves each group of channels with its own filters.

    Like every deep-learning library, this computes a cross-correlation: filters are not flipped.
    Letters: ``B`` batch, ``H`` height, ``W`` width, ``C`` channels per group, ``F`` filters per
    group, ``G`` groups.

    Args:
        x: input ``(B, H, W, C*G)``, with axes ordered by ``data_format``.
        weights: ``(filter height, filter width, C, F, G)``.
        bias: ``(1, 1, F, G)``, or ``None``.
        stride: step between outputs, in pixels: a positive integer, or (vertical, horizontal).
        dilation_factor: distance between filter taps, in pixels, likewise. The effective filter
            size is ``(filter size - 1) * dilation_factor + 1``.
        padding: ``"same"``, ``"valid"``, ``p``, ``(a, b)`` = top and bottom ``a``, left and right
            ``b``, ``(t, b, l, r)`` or ``((t, b), (l, r))``, in pixels. ``"same"`` gives
            ``ceil(input / stride)`` outputs, with the odd row or column at the bottom or right.
        padding_value: a number, ``"symmetric-include-edge"``, ``"symmetric-exclude-edge"``,
            ``"replicate"`` or ``"circular"`` (``np.pad``'s ``symmetric``, ``reflect``, ``edge``
            and ``wrap``).
        data_format: one letter per axis of ``x`` and of the result, in any order: ``S`` twice
            (height first), ``C`` once, and ``B``, ``T``, ``U`` at most once each. ``T`` and ``U``
            are treated like a batch. A leading ``B`` stands for any number of axes. ``"NHWC"`` and
            ``"NCHW"`` are accepted too.
        implementation: the name of an implementation, or ``None`` to choose one by device and
            shape. ``"lax"`` is the reference.
        precision: as in ``jax.lax.conv_general_dilated``.
        preferred_element_type: dtype of sums and result. By default the promoted dtype of the
            arguments; sums over 16-bit inputs are accumulated in float32.

    Returns:
        ``(B, H', W', F*G)`` in the same ``data_format``. Output channel ``g * F + f`` is filter
        ``f`` of group ``g``.

    Raises:
        TypeError: an argument is of the wrong kind, for example integers in ``x``.
        ValueError: an argument has a wrong value, the shapes do not match, or, on a mesh with
            explicit axes, an argument is sharded in a way that the operation does not support.

    Example:
        Two groups of two channels, three filters each:

        >>> import jax, jax.numpy as jnp
        >>> from grouped_conv_jax import grouped_conv2d
        >>> x = jnp.ones((1, 5, 5, 4))
        >>> weights = jnp.ones((3, 3, 2, 3, 2))
        >>> y = grouped_conv2d(x, weights, padding="same")
        >>> y.shape
        (1, 5, 5, 6)
        >>> print(y[0, :, :, 0])
        [[ 8. 12. 12. 12.  8.]
         [12. 18. 18. 18. 12.]
         [12. 18. 18. 18. 12.]
         [12. 18. 18. 18. 12.]
         [ 8. 12. 12. 12.  8.]]
    """
    options = Options.parse(
        2,
        stride=stride,
        dilation_factor=dilation_factor,
        padding=padding,
        padding_value=padding_value,
        data_format=data_format,
        implementation=implementation,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    return _call.apply(options, *_call.promote(x, weights, bias))
