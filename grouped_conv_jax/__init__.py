"""Grouped convolution for JAX and Flax.

The pure function is :func:`grouped_conv2d`; :func:`conv_general_dilated` takes the place of
``jax.lax``'s in a Flax model that exists, and :func:`explain` tells what runs. ``linen`` and
``nnx`` hold the Flax modules, ``optim`` the solvers that honour learning-rate and L2 factors,
``matlab`` the front door for those who come from there, ``convert`` what brings weights in and out.

``linen``, ``nnx``, ``optim`` and ``matlab`` are imported at their first use, so that the function
alone starts without Flax and optax.
"""

import importlib
from typing import TYPE_CHECKING

from grouped_conv_jax import _lowering, convert, initializers
from grouped_conv_jax._drop_in import (
    conv_general_dilated,
    conv_general_dilated_with_pointwise,
)
from grouped_conv_jax._explain import explain
from grouped_conv_jax._functional import grouped_conv2d
from grouped_conv_jax._marks import accelerate
from grouped_conv_jax._native_library import register_native_targets

if TYPE_CHECKING:
    from grouped_conv_jax import linen, matlab, nnx, optim
else:
    # Hidden from type checkers, who would take any name for an attribute.
    def __getattr__(name):
        if name not in ("linen", "matlab", "nnx", "optim"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return importlib.import_module(f"{__name__}.{name}")

    def __dir__():
        return sorted({*globals(), *__all__})


_lowering.install()

__version__ = "0.1.0"

__all__ = [
    "accelerate",
    "conv_general_dilated",
    "conv_general_dilated_with_pointwise",
    "convert",
    "explain",
    "grouped_conv2d",
    "initializers",
    "linen",
    "matlab",
    "nnx",
    "optim",
    "register_native_targets",
]
