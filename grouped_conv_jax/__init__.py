"""Grouped convolution for JAX and Flax.

The pure function is :func:`grouped_conv2d`; :func:`conv_general_dilated` takes the place of
``jax.lax``'s in a Flax model that exists, and :func:`explain` tells what runs. ``linen`` and
``nnx`` hold the Flax modules, ``optim`` the solvers that honour learning-rate and L2 factors,
``matlab`` the front door for those who come from there, ``convert`` what brings weights in and out.
"""

from grouped_conv_jax import convert, initializers, linen, matlab, nnx, optim
from grouped_conv_jax._drop_in import conv_general_dilated
from grouped_conv_jax._explain import explain
from grouped_conv_jax._functional import grouped_conv2d

__version__ = "0.1.0"

__all__ = [
    "conv_general_dilated",
    "convert",
    "explain",
    "grouped_conv2d",
    "initializers",
    "linen",
    "matlab",
    "nnx",
    "optim",
]
