"""The implementations, one file each, in the canonical order of axes defined in ``_description``.

``native_kernels`` calls the compiled library, whose sources are in ``native/``. ``lax_convolution``
is JAX's own convolution. ``shift_and_add`` and ``block_diagonal`` are portable. ``polyphase``,
``pointwise`` and ``lane_tiles`` are algorithms that these share.
"""

from types import ModuleType

from grouped_conv_jax.operation.implementations import (
    block_diagonal,
    lax_convolution,
    native_kernels,
    shift_and_add,
)

REGISTRY: dict[str, ModuleType] = {
    "native": native_kernels,
    "lax": lax_convolution,
    "taps": shift_and_add,
    "blocks": block_diagonal,
}
"""Implementations by the name that ``implementation=`` takes."""
