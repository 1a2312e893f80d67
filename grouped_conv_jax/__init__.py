"""Grouped convolution for JAX and Flax.

The pure functions are :func:`grouped_conv2d` and, for one to three spatial dimensions,
:func:`grouped_conv`; :func:`conv_general_dilated` takes the place of ``jax.lax``'s in a Flax model
that exists, and :func:`explain` tells what runs. ``linen`` and ``nnx`` hold the Flax modules,
``optim`` the solvers that honour learning-rate and L2 factors, ``matlab`` the front door for those
who come from there, ``convert`` what brings weights in and out.

Names are imported at their first use: the function alone starts without Flax and optax, and the
command can start again with other settings of the allocator before JAX is imported.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grouped_conv_jax import convert, initializers, linen, matlab, nnx, optim
    from grouped_conv_jax.operation._drop_in import (
        conv_general_dilated,
        conv_general_dilated_with_pointwise,
    )
    from grouped_conv_jax.operation._explain import explain
    from grouped_conv_jax.operation._functional import grouped_conv, grouped_conv2d
    from grouped_conv_jax.operation._marks import accelerate
    from grouped_conv_jax.operation.implementations.native_library import register_native_targets
else:
    _HOMES = {
        "accelerate": "_marks",
        "conv_general_dilated": "_drop_in",
        "conv_general_dilated_with_pointwise": "_drop_in",
        "explain": "_explain",
        "grouped_conv": "_functional",
        "grouped_conv2d": "_functional",
        "register_native_targets": "implementations.native_library",
    }

    # Hidden from type checkers, who would take any name for an attribute.
    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name not in _HOMES:
            return importlib.import_module(f"{__name__}.{name}")
        # This installs the lowering rule, which reads the marks of all these functions.
        importlib.import_module(f"{__name__}.operation._call")
        value = getattr(importlib.import_module(f"{__name__}.operation.{_HOMES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})


__version__ = "0.1.0"

__all__ = [
    "accelerate",
    "conv_general_dilated",
    "conv_general_dilated_with_pointwise",
    "convert",
    "explain",
    "grouped_conv",
    "grouped_conv2d",
    "initializers",
    "linen",
    "matlab",
    "nnx",
    "optim",
    "register_native_targets",
]
