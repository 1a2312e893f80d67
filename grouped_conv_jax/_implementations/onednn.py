"""oneDNN's convolution, which XLA:CPU carries and calls where a program asks for it by name.

It is the library that PyTorch runs on a CPU. XLA's own grouped convolutions do not use it; this
module asks for it with a custom call, whose name and configuration are XLA's and not part of its
documented interface. A configuration that XLA does not understand ends the process, so only those
releases of jaxlib are asked that were tried (0.10.2 and 0.12.0); elsewhere the implementations in
plain JAX serve. ``tests/test_onednn.py`` fails loudly when it changes.
"""

import functools
import json
import platform
import sys
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
from jax import lax

from grouped_conv_jax._convolution import Convolution, Role
from grouped_conv_jax._implementations import phases

_TRIED = ((0, 10), (0, 12))


@functools.cache
def is_available() -> bool:
    """Whether this process's jaxlib is one that was tried."""
    release = tuple(int(part) for part in jaxlib.__version__.split(".")[:2])
    linux = sys.platform == "linux" and platform.machine() == "x86_64"
    return linux and _TRIED[0] <= release <= _TRIED[1]


def unsupported(role: Role, convolution: Convolution, channels: int, filters: int) -> str | None:
    """Why this implementation cannot compute ``role``, or ``None``."""
    if not is_available():
        return f"jaxlib {jaxlib.__version__} on {sys.platform} was not tried"
    if role == Role.FILTER_GRADIENT:
        return "XLA offers oneDNN's forward convolution alone"
    if not 1 <= len(convolution.image) <= 3:
        return f"oneDNN knows one to three spatial axes, got {len(convolution.image)}"
    if not all(isinstance(size, int) for size in convolution.image):
        return f"the image's size must be known, got {convolution.image}"
    if convolution.preferred_element_type not in (None, jnp.float32):
        return (
            f"it sums in float32, got preferred_element_type={convolution.preferred_element_type}"
        )
    return None


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """``y`` ``(B, *outputs, G*F)``."""
    shape = convolution.shape(Role.FORWARD, x.shape, filters.shape)
    crop = [(min(before, 0), min(after, 0), 0) for before, after in convolution.padding]
    if any(side for sides in crop for side in sides):
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *crop, (0, 0, 0)])
    call = jax.ffi.ffi_call(
        "__onednn$convolution",
        jax.ShapeDtypeStruct(shape, jnp.float32),
        custom_call_api_version=1,
        legacy_backend_config=_configuration(convolution),
    )
    y: jax.Array = call(x.astype(jnp.float32), filters.astype(jnp.float32))
    return y.astype(x.dtype)


def input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """``x`` ``(B, *image, G*C)``."""
    return phases.input_gradient(filters, y, convolution, forward)


def _configuration(convolution: Convolution) -> str:
    """What XLA's configuration of a oneDNN convolution says, with axes in canonical order."""
    rank = len(convolution.image)
    images = {"batch_dim": 0, "feature_dim": rank + 1, "spatial_dims": list(range(1, rank + 1))}
    window: dict[str, Any] = {
        "pad_left": [max(before, 0) for before, _ in convolution.padding],
        "pad_right": [max(after, 0) for _, after in convolution.padding],
        "strides": list(convolution.strides),
        "window_dilations": list(convolution.dilation),
    }
    kernel = {
        "input_feature_dim": rank,
        "output_feature_dim": rank + 1,
        "spatial_dims": list(range(rank)),
    }
    described = {
        "dims": rank + 2,
        "input": {"dims": rank + 2, "data": images},
        "kernel": {"dims": rank + 2, "filter": kernel},
        "output": {"dims": rank + 2, "data": images},
        "window": window,
        "feature_groups": convolution.groups,
    }
    return json.dumps({"outer_dimension_partitions": [], "onednn_conv_config": described})
