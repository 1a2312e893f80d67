"""Grouped convolution for JAX and Flax.

The pure functions are :func:`grouped_conv2d` and, for one to three spatial dimensions,
:func:`grouped_conv`. :func:`accelerate` and :func:`conv_general_dilated` speed up existing models,
and :func:`explain` lists what runs. ``linen`` and ``nnx`` hold the Flax modules, ``optim`` the
solvers that apply learning-rate and L2 factors, ``matlab`` an interface with MATLAB's names, and
``convert`` the conversion of weights between frameworks.

Names are imported on first use. The functions thus work without importing Flax and optax, and the
command can restart itself with other allocator settings before it imports JAX.
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
    _MODULES = {
        "accelerate": "_marks",
        "conv_general_dilated": "_drop_in",
        "conv_general_dilated_with_pointwise": "_drop_in",
        "explain": "_explain",
        "grouped_conv": "_functional",
        "grouped_conv2d": "_functional",
        "register_native_targets": "implementations.native_library",
    }

    # Hidden from type checkers, which would otherwise accept any attribute name.
    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name not in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        # Importing this module installs the lowering rule that reads the functions' marks.
        importlib.import_module(f"{__name__}.operation._call")
        value = getattr(importlib.import_module(f"{__name__}.operation.{_MODULES[name]}"), name)
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
