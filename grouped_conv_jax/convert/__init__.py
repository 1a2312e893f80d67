"""Conversion of weights from and to other frameworks' layouts and MATLAB files.

Our weights are ``(h, w, channels_per_group, filters_per_group, groups)`` and our bias is
``(1, 1, filters_per_group, groups)``. Output channels are group-major everywhere: filter ``f`` of
group ``g`` computes output channel ``g * filters_per_group + f``.

The functions for single arrays only move axes. They take a NumPy or a JAX array, which may be
traced, and return an array of the same kind and dtype. A NumPy result may be a view of the
argument, as in `numpy.transpose`. `from_torch_state` and `to_torch_state` convert whole models;
`load_mat` and `save_mat` read and write MATLAB files.
"""

from grouped_conv_jax.convert._mat_files import load_mat
from grouped_conv_jax.convert._mat_saving import save_mat
from grouped_conv_jax.convert._torch_state import from_torch_state, to_torch_state
from grouped_conv_jax.convert._weights import (
    from_bias_vector,
    from_hwio,
    from_keras_depthwise,
    from_matlab,
    from_oihw,
    to_bias_vector,
    to_hwio,
    to_keras_depthwise,
    to_matlab,
    to_oihw,
)

__all__ = [
    "from_bias_vector",
    "from_hwio",
    "from_keras_depthwise",
    "from_matlab",
    "from_oihw",
    "from_torch_state",
    "load_mat",
    "save_mat",
    "to_bias_vector",
    "to_hwio",
    "to_keras_depthwise",
    "to_matlab",
    "to_oihw",
    "to_torch_state",
]
