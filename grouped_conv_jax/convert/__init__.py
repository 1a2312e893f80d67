"""Weights from elsewhere: the layouts of other frameworks, and MATLAB's files, to ours and back.

Our weights are ``(h, w, channels_per_group, filters_per_group, groups)`` and our bias is
``(1, 1, filters_per_group, groups)``. Output channels are group-major everywhere: filter ``f`` of
group ``g`` makes output channel ``g * filters_per_group + f``.

Every function but `load_mat` and `save_mat` only moves axes. It takes a NumPy or a JAX array and
returns the same kind with the same dtype; JAX arrays may be traced. A NumPy result may be a view of
what was given, as `numpy.transpose` gives one.
"""

from grouped_conv_jax.convert._mat_files import load_mat, save_mat
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
