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
import math
import platform
import sys
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
from jax import lax

from grouped_conv_jax._convolution import Convolution, Problem, Role
from grouped_conv_jax._implementations import phases

_TRIED = ((0, 10), (0, 12))
# oneDNN sums in one chain of additions, lax in several, whose errors are smaller. Sums longer than
# this are made of parts, so that float32 errors stay below twice lax's.
_LONGEST_SUM = 512
_LONGEST_DEPTHWISE_SUM = 64
_DTYPES = (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))


@functools.cache
def unavailable() -> str | None:
    """Why this process cannot ask for oneDNN, or ``None``."""
    release = tuple(int(part) for part in jaxlib.version.__version__.split(".")[:2])
    machine = platform.machine()
    if sys.platform == "linux" and machine == "x86_64" and _TRIED[0] <= release <= _TRIED[1]:
        return None
    return f"not tried with jaxlib {jaxlib.version.__version__} on {sys.platform} {machine}"


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
        if jnp.dtype(one) not in _DTYPES:
            return f"sums are float32, got {one}"
    return None


def forward(x: jax.Array, filters: jax.Array, convolution: Convolution) -> jax.Array:
    """``y`` ``(B, *outputs, G*F)``."""
    if len(convolution.image) == 1:
        # oneDNN is fast for images alone: a sequence becomes a row.
        row = functools.partial(jnp.expand_dims, axis=1)
        return forward(row(x), filters[None], _as_row(convolution))[:, 0]
    x, filters = x.astype(jnp.float32), filters.astype(jnp.float32)
    total = None
    for rows in _parts(convolution, filters.shape[-2]):
        total = _convolve(x, filters[rows], _with_rows(convolution, rows), total)
    assert total is not None
    return total


def _parts(convolution: Convolution, channels: int) -> list[slice]:
    """Rows of the filter that are summed at once."""
    rows = convolution.filter_size[0]
    longest = _LONGEST_SUM if channels > 1 else _LONGEST_DEPTHWISE_SUM
    terms = channels * math.prod(convolution.filter_size)
    each = -(-rows // min(rows, -(-terms // longest)))
    return [slice(start, min(start + each, rows)) for start in range(0, rows, each)]


def _with_rows(convolution: Convolution, rows: slice) -> Convolution:
    """The same outputs from some rows of the filter alone."""
    skipped, dilation = rows.start * convolution.dilation[0], convolution.dilation[0]
    before = convolution.padding[0][0] - skipped
    extent = (rows.stop - rows.start - 1) * dilation + 1
    read = (convolution.outputs[0] - 1) * convolution.strides[0] + extent
    after = read - convolution.image[0] - before
    return dataclasses.replace(
        convolution,
        filter_size=(rows.stop - rows.start, *convolution.filter_size[1:]),
        padding=((before, after), *convolution.padding[1:]),
    )


def _convolve(
    x: jax.Array, filters: jax.Array, convolution: Convolution, total: jax.Array | None
) -> jax.Array:
    """Adds a convolution to ``total``, where there is one."""
    # oneDNN does not crop.
    cropped = [sides if min(sides) < 0 else (0, 0) for sides in convolution.padding]
    rest = tuple((0, 0) if min(sides) < 0 else sides for sides in convolution.padding)
    widths = [(0, 0, 0), *((before, after, 0) for before, after in cropped), (0, 0, 0)]
    shape = convolution.shape(Role.FORWARD, x.shape, filters.shape)
    added = () if total is None else (total,)
    call = jax.ffi.ffi_call(
        "__onednn$convolution",
        jax.ShapeDtypeStruct(shape, x.dtype),
        vmap_method="sequential",
        custom_call_api_version=1,
        legacy_backend_config=_configuration(
            dataclasses.replace(convolution, padding=rest), len(added)
        ),
    )
    result: jax.Array = call(lax.pad(x, jnp.zeros((), x.dtype), widths), filters, *added)
    return result


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


def _configuration(convolution: Convolution, added: int) -> str:
    """What XLA's configuration of a oneDNN convolution says, with axes in canonical order."""
    rank = len(convolution.image)
    images = {"batch_dim": 0, "feature_dim": rank + 1, "spatial_dims": list(range(1, rank + 1))}
    window: dict[str, Any] = {
        "pad_left": [before for before, _ in convolution.padding],
        "pad_right": [after for _, after in convolution.padding],
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
        "fusions": {"ops": ["BINARY_ADD"] * added},
        "feature_groups": convolution.groups,
    }
    return json.dumps({"outer_dimension_partitions": [], "onednn_conv_config": described})
