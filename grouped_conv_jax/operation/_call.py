"""Computes a grouped convolution: padding, layout and bias around a marked convolution of lax."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from grouped_conv_jax import _checks
from grouped_conv_jax._layout import Layout
from grouped_conv_jax._padding import AXES, Sides
from grouped_conv_jax.operation import _choice, _lowering, _marks
from grouped_conv_jax.operation._description import Convolution, Role, is_known
from grouped_conv_jax.operation._options import Options
from grouped_conv_jax.operation.implementations import lax_convolution
from grouped_conv_jax.operation.sharding._explicit import as_planned, is_on_explicit_axes

# Every module that marks convolutions imports this one, so that the rule for marks is installed.
_lowering.install()

_NUMBERS = {4: "four", 5: "five", 6: "six"}


def apply(options: Options, x: jax.Array, weights: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Computes :func:`grouped_conv` from checked options and arrays of one dtype."""
    traced = any(isinstance(array, jax.core.Tracer) for array in (x, weights, bias))
    return (_apply if traced else _jitted_apply)(options, x, weights, bias)


def _apply(options: Options, x: jax.Array, weights: jax.Array, bias: jax.Array | None) -> jax.Array:
    layout, axes = options.layout, options.padding.axes
    _check_shapes(layout, axes, x, weights, bias)
    element_type = _not_narrower(options.element_type, x.dtype)

    image = layout.to_canonical(x)
    filter_size, groups = weights.shape[:axes], weights.shape[-1]
    size = layout.image_size(x.shape)
    sides = options.padding.resolve(size, filter_size, options.strides, options.dilation)
    _check_filter_fits(size, filter_size, options.dilation, sides)
    image, sides = options.padding.apply(image, sides)
    image = _without_unused_pixels(image, sides, filter_size, options)
    convolution = Convolution(
        image.shape[-1 - axes : -1],
        filter_size,
        groups,
        options.strides,
        sides,
        options.dilation,
        options.precision,
        element_type,
    )
    kernel = _to_kernel(weights)
    leading = image.shape[: -1 - axes]
    batch = (
        image if len(leading) == 1 else image.reshape(math.prod(leading), *image.shape[-1 - axes :])
    )
    y = convolve(batch, kernel, convolution, options.implementation)
    if len(leading) != 1:
        y = y.reshape(*leading, *y.shape[1:])
    if bias is not None:
        y = _add_bias(y, bias)
    return layout.from_canonical(y)


# For eager calls, which would otherwise dispatch each operation separately.
_jitted_apply = jax.jit(_apply, static_argnums=0, inline=True)


def convolve(
    x: jax.Array, filters: jax.Array, convolution: Convolution, implementation: str | None
) -> jax.Array:
    """Returns ``(B, *out, G*F)`` for ``x`` ``(B, *in, G*C)`` and filters ``(*filter, C, G*F)``."""
    _choice.check_supported(
        implementation, convolution, *convolution.widths(Role.FORWARD, x.shape, filters.shape)
    )
    compute = functools.partial(lax_convolution.forward, convolution=convolution)
    explicit = is_on_explicit_axes(x, filters)
    with _marks.scope(implementation):
        if explicit and convolution.groups > 1 and implementation != "lax":
            return as_planned(compute, x, filters, convolution)
        return compute(x, filters)


def promote(
    x: ArrayLike, weights: ArrayLike, bias: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Promotes the arrays to one floating-point dtype by JAX's rules."""
    given = {"x": x, "weights": weights} | ({} if bias is None else {"bias": bias})
    for name, value in given.items():
        _checks.floating_array(name, value)
        if isinstance(value, jax.ShapeDtypeStruct):
            raise TypeError(
                f"{name} must be an array, got {value}; jax.eval_shape calls a function with shapes"
            )
    arrays = [a if isinstance(a, jax.Array) else jnp.asarray(a) for a in given.values()]
    # An eager cast costs time even if it keeps the dtype.
    if any(array.dtype != arrays[0].dtype for array in arrays):
        dtype = jnp.result_type(*arrays)
        arrays = [array.astype(dtype) for array in arrays]
    x, weights, *rest = arrays
    return x, weights, rest[0] if rest else None


def _check_shapes(
    layout: Layout, axes: int, x: jax.Array, weights: jax.Array, bias: jax.Array | None
) -> None:
    if weights.ndim != axes + 3 or 0 in weights.shape:
        raise ValueError(
            f"weights must have {_NUMBERS[axes + 3]} axes {weights_axes(axes)}, none empty, "
            f"got {weights.shape}"
        )
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
            f"x must have a positive {' and '.join(AXES[axes])}, got shape {x.shape} "
            f'(data_format "{layout.data_format}")'
        )
    if bias is not None:
        ones = (1,) * axes
        _checks.shape_is("bias", bias, (*ones, filters, groups), bias_axes(axes))
        _check_sharding("bias", bias)
    _check_sharding("weights", weights)


def weights_axes(axes: int) -> str:
    """Names of the axes of the weights, for messages."""
    size = ", ".join(f"filter {axis}" for axis in AXES[axes])
    return f"({size}, channels per group, filters per group, groups)"


def bias_axes(axes: int) -> str:
    """Names of the axes of the bias, for messages."""
    return f"({'1, ' * axes}filters per group, groups)"


def _check_sharding(name: str, learnable: jax.Array) -> None:
    """Raises ``ValueError`` if the type of a learnable is sharded over any axis but the groups."""
    spec = jax.typeof(learnable).sharding.spec
    if any(spec[: learnable.ndim - 1]):
        raise ValueError(
            f"{name} of shape {learnable.shape} must not be sharded except over its last axis, "
            f"the groups, got {spec}; use jax.sharding.reshard"
        )


def _without_unused_pixels(
    image: jax.Array, sides: Sides, filter_size: tuple[int, ...], options: Options
) -> jax.Array:
    """Crops trailing pixels that no filter covers, along axes of symbolic size.

    The number of such pixels is symbolic too, and lax's gradients accept no symbolic padding.
    """
    first = image.ndim - 1 - len(sides)
    along = zip(sides, filter_size, options.strides, options.dilation, strict=True)
    for axis, (side, k, s, d) in enumerate(along, first):
        size, extent = image.shape[axis], (k - 1) * d + 1
        if s > 1 and not is_known(size):
            used = (size + sum(side) - extent) // s * s + extent - sum(side)
            image = jax.lax.slice_in_dim(image, 0, used, axis=axis)
    return image


def _check_filter_fits(
    image: tuple[int, ...],
    filter_size: tuple[int, ...],
    dilation: tuple[int, ...],
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
    """Converts weights ``(*filter, C, F, G)`` to a kernel ``(*filter, C, G*F)``."""
    *size, channels, filters, groups = weights.shape
    n = len(size)
    return jax.lax.reshape(
        jax.lax.transpose(weights, (*range(n + 1), n + 2, n + 1)),
        (*size, channels, groups * filters),
    )


def _add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds ``bias`` ``(*ones, F, G)`` to ``y`` ``(..., G*F)``."""
    *ones, filters, groups = bias.shape
    n = len(ones)
    vector = jax.lax.reshape(
        jax.lax.transpose(bias, (*range(n), n + 1, n)), (*ones, groups * filters)
    )
    # A reshape that added these axes too would have no sharding rule for sharded groups.
    vector = jax.lax.expand_dims(vector, range(y.ndim - 1 - n))
    # Otherwise the bias's cotangent, a sum over all pixels, would accumulate in 16 bits.
    wide = jnp.float32 if y.dtype.itemsize == 2 else y.dtype
    return (y.astype(wide) + vector.astype(wide)).astype(y.dtype)


def _not_narrower(preferred: np.dtype[Any] | None, operands: np.dtype[Any]) -> np.dtype[Any] | None:
    if preferred is not None and preferred.itemsize < operands.itemsize:
        raise ValueError(
            f"preferred_element_type must not be narrower than the arguments' {operands}, "
            f"got {preferred.name!r}"
        )
    return preferred
