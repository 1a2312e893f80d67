"""NNX modules, and what NNX users need around them."""

from grouped_conv_jax.nnx._grouped_conv import GroupedConv2D

__all__ = ["GroupedConv2D"]
