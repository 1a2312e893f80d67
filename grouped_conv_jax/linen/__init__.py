"""Linen modules, and the factors of their learnables."""

from grouped_conv_jax.linen._factors import learnable_factors
from grouped_conv_jax.linen._grouped_conv import GroupedConv1D, GroupedConv2D, GroupedConv3D
from grouped_conv_jax.linen._separable_network import SeparableNetwork

__all__ = [
    "GroupedConv1D",
    "GroupedConv2D",
    "GroupedConv3D",
    "SeparableNetwork",
    "learnable_factors",
]
