"""Grouped convolution of images as a pure function."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from grouped_conv_jax import _checks, _choice, _lowering, _marks, _sharding
from grouped_conv_jax._choice import check_implementation
from grouped_conv_jax._convolution import Convolution, Role, is_known
from grouped_conv_jax._implementations import lax
from grouped_conv_jax._layout import Layout
from grouped_conv_jax._padding import Padding, Sides

# Every module that marks convolutions imports this one, so that no mark is without its rule.
_lowering.install()


def grouped_conv2d(
    x: ArrayLike,
    weights: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    dilation_factor: int | tuple[int, int] = 1,
    padding: Any = 0,
    padding_value: float | str = 0,
    data_format: str = "BSSC",
    implementation: str | None = None,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
) -> jax.Array:
    """Convolves each group of channels with filters of its own.

    A cross-correlation, as in every deep-learning library: filters are not flipped. Letters:
    ``B`` batch, ``H`` height, ``W`` width, ``C`` channels per group, ``F`` filters per group,
    ``G`` groups.

    Args:
        x: input, ``(B, H, W, C*G)`` or as ``data_format`` says.
        weights: ``(filter height, filter width, C, F, G)``.
        bias: ``(1, 1, F, G)``, or ``None``.
        stride: step between outputs, in pixels: a positive integer, or (vertical, horizontal).
        dilation_factor: distance between filter taps, in pixels, likewise. The effective filter
            size is ``(filter size - 1) * dilation_factor + 1``.
        padding: ``"same"``, ``"valid"``, ``p``, ``(a, b)`` = top and bottom ``a``, left and right
            ``b``, ``(t, b, l, r)`` or ``((t, b), (l, r))``, in pixels. ``"same"`` gives
            ``ceil(input / stride)`` outputs, with the odd row or column at the bottom or right.
        padding_value: a number, ``"symmetric-include-edge"``, ``"symmetric-exclude-edge"`` or
            ``"replicate"`` (``np.pad``'s ``symmetric``, ``reflect`` and ``edge``).
        data_format: one letter an axis of ``x`` and of the result: ``S`` twice (height first),
            ``C``, and ``B``, ``T``, ``U`` where they exist, in any order; ``T`` and ``U`` are
            carried along like a batch. A leading ``B`` stands for any number of axes. Or
            ``"NHWC"``, ``"NCHW"``.
        implementation: ``None`` for the best one, or the name of one; ``"lax"`` is the reference.
        precision: as in ``jax.lax.conv_general_dilated``.
        preferred_element_type: dtype of sums and result; by default the promoted dtype of the
            arguments, sums over 16-bit inputs being accumulated in float32.

    Returns:
        ``(B, H', W', F*G)`` in the same ``data_format``. Output channel ``g * F + f`` is filter
        ``f`` of group ``g``.

    Raises:
        TypeError: an argument is of the wrong kind, for example integers in ``x``.
        ValueError: an argument has a wrong value, the shapes do not fit each other, or, on a mesh
            with explicit axes, an argument is sharded in a way that the result cannot have.

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
    layout = Layout.parse(data_format)
    border = Padding.parse(padding, padding_value)
    strides = _checks.pair("stride", stride)
    dilation = _checks.pair("dilation_factor", dilation_factor)
    chosen = check_implementation(implementation)
    x, weights, bias = _promote(x, weights, bias)
    _check_shapes(layout, x, weights, bias)

    image = layout.to_canonical(x)
    height, width, *_, groups = weights.shape
    size = layout.image_size(x.shape)
    sides = border.resolve(size, (height, width), strides, dilation)
    _check_filter_fits(size, (height, width), dilation, sides)
    image, sides = border.apply(image, sides)
    image = _without_unused_pixels(image, sides, (height, width), strides, dilation)
    convolution = Convolution(
        image.shape[-3:-1],
        (height, width),
        groups,
        strides,
        sides,
        dilation,
        lax.check_precision(precision),
        _element_type(preferred_element_type, x.dtype),
    )
    # Not so in a program, which stays one of plain operations.
    traced = any(isinstance(array, jax.core.Tracer) for array in (x, weights, bias))
    kernel = (_to_kernel if traced else _to_kernel_at_once)(weights)
    carried = image.shape[:-3]
    batch = image if len(carried) == 1 else image.reshape(math.prod(carried), *image.shape[-3:])
    y = convolve(batch, kernel, convolution, chosen)
    if len(carried) != 1:
        y = y.reshape(*carried, *y.shape[1:])
    if bias is not None:
        y = (_add_bias if traced else _add_bias_at_once)(y, bias)
    return layout.from_canonical(y)


def convolve(
    x: jax.Array, filters: jax.Array, convolution: Convolution, implementation: str | None
) -> jax.Array:
    """Returns ``(B, *out, G*F)`` for ``x`` ``(B, *in, G*C)`` and filters ``(*filter, C, G*F)``."""
    _choice.check_supported(
        implementation, convolution, *convolution.widths(Role.FORWARD, x.shape, filters.shape)
    )
    compute = functools.partial(lax.forward, convolution=convolution)
    explicit = _sharding.is_on_explicit_axes(x, filters)
    with _marks.scope(implementation):
        if explicit and convolution.groups > 1 and implementation != "lax":
            return _sharding.as_planned(compute, x, filters, convolution)
        return compute(x, filters)


def _promote(
    x: ArrayLike, weights: ArrayLike, bias: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Brings the arrays to one floating-point dtype by JAX's rules."""
    given = {"x": x, "weights": weights} | ({} if bias is None else {"bias": bias})
    for name, value in given.items():
        _checks.floating_array(name, value)
    arrays = [a if isinstance(a, jax.Array) else jnp.asarray(a) for a in given.values()]
    # Eagerly, even a cast to the same dtype takes time.
    if any(array.dtype != arrays[0].dtype for array in arrays):
        dtype = jnp.result_type(*arrays)
        arrays = [array.astype(dtype) for array in arrays]
    x, weights, *rest = arrays
    return x, weights, rest[0] if rest else None


def _check_shapes(layout: Layout, x: jax.Array, weights: jax.Array, bias: jax.Array | None) -> None:
    axes = "(filter height, filter width, channels per group, filters per group, groups)"
    if weights.ndim != 5 or 0 in weights.shape:
        raise ValueError(f"weights must have five axes {axes}, none empty, got {weights.shape}")
    layout.check_rank(x.shape)
    *_, channels, filters, groups = weights.shape
    received = layout.num_channels(x.shape)
    if received != channels * groups:
        rule = (
            f"weights of shape {weights.shape} need {channels} * {groups} = {channels * groups} "
            f"input channels (channels per group * groups)"
        )
        raise ValueError(
            f"{rule}, got {received} channels in x of shape {x.shape} "
            f'(data_format "{layout.data_format}")'
        )
    if 0 in layout.image_size(x.shape):
        raise ValueError(
            f"x must have a positive height and width, got shape {x.shape} "
            f'(data_format "{layout.data_format}")'
        )
    if bias is not None:
        _checks.shape_is("bias", bias, (1, 1, filters, groups), "(1, 1, filters, groups)")
        _check_sharding("bias", bias)
    _check_sharding("weights", weights)


def _check_sharding(name: str, learnable: jax.Array) -> None:
    """Where shardings are part of the type, learnables are split by groups or not at all."""
    spec = jax.typeof(learnable).sharding.spec
    if any(spec[: learnable.ndim - 1]):
        raise ValueError(
            f"{name} of shape {learnable.shape} must not be sharded but over its last axis, the "
            f"groups, got {spec}; use jax.sharding.reshard"
        )


def _without_unused_pixels(
    image: jax.Array,
    sides: Sides,
    filter_size: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int],
) -> jax.Array:
    """Cuts off the last rows and columns that no filter reaches, where sizes are symbols.

    Their number is a symbol, too, which lax's gradients do not take for a padding.
    """
    for axis, side, k, s, d in zip((-3, -2), sides, filter_size, strides, dilation, strict=True):
        size, extent = image.shape[axis], (k - 1) * d + 1
        if s > 1 and not is_known(size):
            used = (size + sum(side) - extent) // s * s + extent - sum(side)
            image = jax.lax.slice_in_dim(image, 0, used, axis=axis)
    return image


def _check_filter_fits(
    image: tuple[int, ...],
    filter_size: tuple[int, int],
    dilation: tuple[int, int],
    sides: Sides,
) -> None:
    padded = tuple(size + sum(widths) for size, widths in zip(image, sides, strict=True))
    effective = tuple((k - 1) * d + 1 for k, d in zip(filter_size, dilation, strict=True))
    fits = (not is_known(b) or a <= b for a, b in zip(effective, padded, strict=True))
    if not all(fits):
        raise ValueError(
            f"weights must fit into the padded image: the effective filter size is {effective} "
            f"(filter_size={filter_size}, dilation_factor={dilation}), got a padded image of size "
            f"{padded} (image {image}, padding {sides})"
        )


def _to_kernel(weights: jax.Array) -> jax.Array:
    """``(h, w, C, G*F)`` from weights ``(h, w, C, F, G)``."""
    *size, channels, filters, groups = weights.shape
    return jax.lax.reshape(
        jax.lax.transpose(weights, (0, 1, 2, 4, 3)), (*size, channels, groups * filters)
    )


def _add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds ``bias`` ``(1, 1, F, G)`` to ``y`` ``(..., G*F)``."""
    *_, filters, groups = bias.shape
    vector = jax.lax.reshape(jax.lax.transpose(bias, (0, 1, 3, 2)), (1, 1, groups * filters))
    # A step of its own, since a reshape in one has no sharding rule where the groups are sharded.
    vector = jax.lax.expand_dims(vector, range(y.ndim - 3))
    # In 16 bits the bias's cotangent, a sum over all pixels, would be accumulated in 16 bits.
    wide = jnp.float32 if y.dtype.itemsize == 2 else y.dtype
    return (y.astype(wide) + vector.astype(wide)).astype(y.dtype)


# Eagerly, one call and not one for each operation.
_to_kernel_at_once, _add_bias_at_once = jax.jit(_to_kernel), jax.jit(_add_bias)


def _element_type(preferred: DTypeLike | None, operands: np.dtype[Any]) -> Any:
    """A hashable dtype that sums over the operands can have."""
    if preferred is None:
        return None
    dtype = _checks.floating_dtype("preferred_element_type", preferred)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"preferred_element_type={preferred!r} needs jax_enable_x64")
    if dtype.itemsize < operands.itemsize:
        raise ValueError(
            f"preferred_element_type must not be narrower than the arguments' {operands}, "
            f"got {preferred!r}"
        )
    return dtype
