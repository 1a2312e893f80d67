"""Computes one role of a grouped convolution."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from grouped_conv_jax.operation import _choice
from grouped_conv_jax.operation._description import Convolution, Role


def compute(
    lhs: jax.Array,
    rhs: jax.Array,
    *,
    role: Role,
    convolution: Convolution,
    dtype: Any,
    platform: str,
    implementation: str | None = None,
    exported: bool = False,
    devices: int = 1,
) -> jax.Array:
    """Runs the implementation chosen for ``platform``.

    Args:
        lhs: the role's first operand, in canonical order.
        rhs: the role's second operand.
        role: the role to compute.
        convolution: the static description.
        dtype: the dtype of the result.
        platform: as :func:`grouped_conv_jax.operation._choice.choose` takes it.
        implementation: the name of an implementation, or ``None``.
        exported: whether the program is exported, and may run on another machine.
        devices: the number of devices that XLA may partition the computation over.
    """
    result = convolution.shape(role, lhs.shape, rhs.shape)
    if 0 in (*lhs.shape, *rhs.shape, *result):
        return jnp.zeros(result, dtype)
    widths = convolution.widths(role, lhs.shape, rhs.shape)
    batch = (lhs, rhs)[role.images].shape[0]
    setting = _choice.Setting(platform, exported, batch, lhs.dtype, devices)
    choice = _choice.choose(role, convolution, *widths, setting, implementation)
    preferred = convolution.preferred_element_type
    if role != Role.FORWARD and preferred is not None:
        # preferred_element_type applies to the sums of gradients too.
        wide = max(jnp.dtype(preferred), lhs.dtype, key=lambda dtype: dtype.itemsize)
        lhs, rhs = lhs.astype(wide), rhs.astype(wide)
    if choice.implementation == "native":
        # The kernels round their sums once, to the dtype of the result.
        convolution = dataclasses.replace(convolution, preferred_element_type=dtype)
    function = choice.function(role, platform, devices)
    return function(lhs, rhs, convolution=convolution).astype(dtype)
