"""Hardware and software of the machine, and its peak rates of copying and multiplying."""

import importlib
import importlib.metadata
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grouped_conv_jax.benchmarks import memory_allocator

_PACKAGES = ("grouped_conv_jax", "jax", "jaxlib", "flax", "numpy", "torch", "libtpu")
_MEBIBYTE = 2**20
# From sizes that fit into the caches to sizes that do not.
_COPY_SIZES = tuple(size * _MEBIBYTE for size in (1, 4, 16, 64, 256))
_MATRIX_SIZE = 2048
# The sizes that keep an accelerator busy.
_LARGE_COPY_SIZES = tuple(size * _MEBIBYTE for size in (1024, 4096))
_LARGE_MATRIX_SIZE = 8192
_SECONDS = 0.3
_CHAIN = 4
# Vector extensions under Linux's names, widest first.
_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}


def cores() -> int:
    """Returns the number of cores that this process may use, and so JAX's number of threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Returns the properties of the machine that affect the measurements."""
    device = jax.devices()[0]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "platform": jax.default_backend(),
        "device": _processor() if device.platform == "cpu" else device.device_kind,
        "devices": len(jax.devices()),
        "processor": _processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_at_start": load,
        # The page size can change times by a factor of two.
        "glibc_tunables": os.environ.get(memory_allocator.VARIABLE),
    } | memory_allocator.describe(
        memory_allocator.libc(), memory_allocator.page_setting(), os.environ
    )


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages involved."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor(cpu_information: Path = Path("/proc/cpuinfo")) -> str:
    """Returns the name of the processor and its widest vectors, which select the kernels."""
    try:
        lines = cpu_information.read_text().splitlines()
    except OSError:
        lines = []
    found: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    name = found.get("model name") or platform.processor() or platform.machine()
    flags = found.get("flags", "").split()
    vectors = next((label for flag, label in _VECTORS.items() if flag in flags), None)
    return f"{name} with {vectors}" if vectors else name


def measure_roofline(dtype: str) -> dict[str, Any]:
    """Measures the peak rates of copying, for several sizes, and of multiplying.

    Returns:
        ``copy``: pairs (bytes read and written, bytes per second); ``flops``: operations per second
        of the fastest matrix product: JAX's in ``dtype``, in float32 or, on CPU, NumPy's.
    """
    on_cpu = jax.default_backend() == "cpu"
    copies = []
    for size in _COPY_SIZES if on_cpu else _COPY_SIZES + _LARGE_COPY_SIZES:
        array = jnp.ones(size // 8, jnp.float32)
        copies.append([size, size / _fastest(jax.jit(jnp.negative, donate_argnums=0), array)])
    size = _MATRIX_SIZE if on_cpu else _LARGE_MATRIX_SIZE
    product = jax.jit(lambda matrix: matrix @ matrix)
    # Scale the elements so that repeated products keep their magnitude.
    scale = math.sqrt(3 / size)
    values = np.random.default_rng(0).uniform(-scale, scale, (size, size)).astype(np.float32)
    times = [_fastest(product, jnp.asarray(values, jnp.dtype(n))) for n in {"float32", dtype}]
    if on_cpu:
        # NumPy's BLAS can be faster than XLA.
        times.append(_fastest(lambda _: values @ values, values))
    return {"copy": copies, "flops": 2 * size**3 / min(times)}


def _fastest(function: Callable[[Any], Any], array: Any) -> float:
    """Returns the shortest time of a function that is applied repeatedly to its own result."""
    array = jax.block_until_ready(function(array))
    times: list[float] = []
    while sum(times) < _SECONDS or len(times) < 3:
        start = time.perf_counter()
        for _ in range(_CHAIN):
            array = function(array)
        jax.block_until_ready(array)
        times.append(time.perf_counter() - start)
    return min(times) / _CHAIN


def least_seconds(roofline: dict[str, Any], transferred: float, operations: float) -> float:
    """Returns the roofline's lower bound, the longer of the times for the bytes and operations.

    Interpolates the copy rate between the measured sizes. A size counts with the rate of the
    fastest copy of at least that size, because small copies are bound by their launch overhead.
    """
    sizes, measured = np.transpose(roofline["copy"])
    rates = np.maximum.accumulate(measured[::-1])[::-1]
    rate = np.interp(math.log(transferred), np.log(sizes), rates)
    return max(transferred / float(rate), operations / roofline["flops"])
