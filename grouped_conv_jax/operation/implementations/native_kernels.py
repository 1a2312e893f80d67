"""Compiled kernels for CPUs, as custom calls into the native library."""

import jax
import jax.numpy as jnp
import numpy as np

from grouped_conv_jax.operation._description import Convolution, Role
from grouped_conv_jax.operation.implementations import native_library


def unsupported(role: Role, convolution: Convolution, channels: int, filters: int) -> str | None:
    """Why this implementation cannot compute ``role``, or ``None``."""
    del role, channels, filters
    if len(convolution.image) > 3:
        return f"it has {len(convolution.image)} spatial axes, and the kernels support at most 3"
    reason = native_library.status()
    return None if reason is None else f"the native library cannot be used: {reason}"


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """``y`` ``(B, *outputs, G*F)``."""
    return _call(Role.FORWARD, x, filters, convolution)


def input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """``x`` ``(B, *image, G*C)``."""
    return _call(Role.INPUT_GRADIENT, filters, y, convolution)


def filter_gradient(x: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """Filters ``(*filter, C, G*F)``."""
    return _call(Role.FILTER_GRADIENT, x, y, convolution)


def _call(role: Role, lhs: jax.Array, rhs: jax.Array, convolution: Convolution) -> jax.Array:
    preferred = jnp.dtype(convolution.preferred_element_type or lhs.dtype)
    if preferred.itemsize > max(lhs.dtype.itemsize, 4):
        lhs, rhs = lhs.astype(preferred), rhs.astype(preferred)
    # The kernels accumulate 16-bit operands in float32, and can return the sums unrounded.
    dtype = preferred if lhs.dtype.itemsize == 2 and preferred == jnp.float32 else lhs.dtype
    result = jax.ShapeDtypeStruct(convolution.shape(role, lhs.shape, rhs.shape), dtype)
    # The stride does not matter to a single output, but the kernels' scratch grows with it.
    strides = [
        stride if outputs > 1 else 1
        for stride, outputs in zip(convolution.strides, convolution.outputs, strict=True)
    ]
    call = jax.ffi.ffi_call(native_library.target(role), result)
    return call(
        lhs,
        rhs,
        groups=np.int64(convolution.groups),
        stride=np.array(strides, np.int64),
        dilation=np.array(convolution.dilation, np.int64),
        before=np.array([before for before, _ in convolution.padding], np.int64),
    )
