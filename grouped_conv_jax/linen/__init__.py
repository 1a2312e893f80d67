"""Linen modules, and what Linen users need around them."""

from grouped_conv_jax.linen._grouped_conv import GroupedConv2D

__all__ = ["GroupedConv2D"]
