"""Solvers, L2 regularization and clipping with learning-rate and L2 factors per learnable.

All are optax gradient transformations. They work with Linen parameters, with NNX states and with
``flax.nnx.Optimizer``.
"""

from grouped_conv_jax.optim._clipping import clip_by_threshold
from grouped_conv_jax.optim._factors import Factors, set_factor
from grouped_conv_jax.optim._regularization import add_l2_regularization, l2_loss
from grouped_conv_jax.optim._solvers import adam, rmsprop, scale_by_learn_rate_factors, sgdm

__all__ = [
    "Factors",
    "adam",
    "add_l2_regularization",
    "clip_by_threshold",
    "l2_loss",
    "rmsprop",
    "scale_by_learn_rate_factors",
    "set_factor",
    "sgdm",
]
