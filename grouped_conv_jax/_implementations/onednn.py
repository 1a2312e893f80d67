"""oneDNN's convolution, which XLA:CPU carries and calls where a program asks for it by name.

It is the library that PyTorch runs on a CPU. XLA's own grouped convolutions do not use it; this
module asks for it with a custom call, whose name and configuration are XLA's and not part of its
documented interface. A configuration that XLA does not understand ends the process, so only those
releases of jaxlib are asked that were tried (0.10.2 and 0.12.0); elsewhere the implementations in
plain JAX serve. ``tests/test_onednn.py`` fails loudly when it changes.
"""

import dataclasses
import functools
import json
import platform
import sys
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
from jax import lax

from grouped_conv_jax._convolution import Convolution, Problem, Role
from grouped_conv_jax._implementations import phases

_TRIED = ((0, 10), (0, 12))
_WIDTHS = (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))


@functools.cache
def unavailable() -> str | None:
    """Why this process cannot ask for oneDNN, or ``None``."""
    release = tuple(int(part) for part in jaxlib.__version__.split(".")[:2])
    machine = platform.machine()
    if sys.platform == "linux" and machine == "x86_64" and _TRIED[0] <= release <= _TRIED[1]:
        return None
    return f"not tried with jaxlib {jaxlib.__version__} on {sys.platform} {machine}"


def unsupported(problem: Problem) -> str | None:
    """Why this implementation cannot solve a problem, or ``None``."""
    image, dtype = problem.convolution.image, problem.convolution.preferred_element_type
    if reason := unavailable():
        return reason
    if problem.role == Role.FILTER_GRADIENT:
        return "of oneDNN's convolutions XLA offers the forward pass alone"
    if len(image) > 3:
        return f"there must be at most three spatial axes, got {len(image)}"
    if not all(isinstance(size, int) for size in image):
        return f"the image's size must be known, got {image}"
    for one in (problem.dtype, dtype or problem.dtype):
        if jnp.dtype(one) not in _WIDTHS:
            return f"sums are float32, got {one}"
    return None


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """``y`` ``(B, *outputs, G*F)``."""
    if len(convolution.image) == 1:
        # oneDNN is fast for images alone: a sequence becomes a row.
        row = functools.partial(jnp.expand_dims, axis=1)
        return forward(row(x), filters[None], _as_row(convolution))[:, 0]
    crop = [(min(before, 0), min(after, 0), 0) for before, after in convolution.padding]
    cropped = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *crop, (0, 0, 0)])
    shape = convolution.shape(Role.FORWARD, x.shape, filters.shape)
    call = jax.ffi.ffi_call(
        "__onednn$convolution",
        jax.ShapeDtypeStruct(shape, jnp.float32),
        custom_call_api_version=1,
        legacy_backend_config=_configuration(convolution),
    )
    y: jax.Array = call(cropped.astype(jnp.float32), filters.astype(jnp.float32))
    return y


def input_gradient(filters: jax.Array, y: jax.Array, convolution: Convolution) -> jax.Array:
    """``x`` ``(B, *image, G*C)``."""
    return phases.input_gradient(filters, y, convolution, forward)


def _as_row(convolution: Convolution) -> Convolution:
    """A convolution of sequences as one of images one pixel high."""
    return dataclasses.replace(
        convolution,
        image=(1, *convolution.image),
        filter_size=(1, *convolution.filter_size),
        strides=(1, *convolution.strides),
        padding=((0, 0), *convolution.padding),
        dilation=(1, *convolution.dilation),
    )


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
