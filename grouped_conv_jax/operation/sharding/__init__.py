"""Splits a convolution over the devices of a mesh, each of which computes one shard.

``_axes`` says what can be split, ``_plan`` what is split and what a shard computes. The compiler's
partitioner asks ``_partitioner``, which reads the mesh off the tiles (``_mesh``); where shardings
are part of the types, ``_explicit`` asks the plan directly.
"""
