"""Splits a convolution over the devices of a mesh, each of which computes one shard.

``_axes`` defines the axes that can be split, and ``_plan`` decides which ones are split and what a
shard computes. ``_partitioner`` applies a plan in the compiler's partitioner, after ``_mesh`` has
derived a mesh from the compiler's tiles. ``_explicit`` applies a plan where shardings are part of
the types.
"""
