"""Compiles sharded programs for TPU v5e, which takes no TPU, and checks their collectives.

Needs ``jax[tpu]``. A program gathers if it holds a collective that computing each shard where it is
does not need. Those that are known to are listed in ``KNOWN``; one more or one less is a failure.
"""

import functools
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

# Read when JAX and libtpu are loaded. No TPU is asked for, and none is waited for.
os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost")

import jax
from jax.experimental import topologies
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import grouped_conv_jax

BOTH = ("data", "model")
TOPOLOGY = topologies.get_topology_desc("v5e:2x2", platform="tpu")
MESH = topologies.make_mesh(TOPOLOGY, (2, 2), BOTH)
COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
# In the order of the arguments: x, the filters, and the output's cotangent.
ROLES = ("input gradient", "filter gradient", "forward")
# The sharding of images and outputs, and of the groups.
SHARDINGS: dict[str, tuple[P, Any]] = {
    "batch": (P(BOTH), None),
    "groups": (P(None, None, None, BOTH), BOTH),
    "batch and groups": (P("data", None, None, "model"), "model"),
    "height": (P(None, BOTH), None),
}
IMPLEMENTATIONS = ("default", "accelerate", "taps", "blocks")


class Case(NamedTuple):
    """A 3x3 convolution of 64 channels; ``width`` is that of a group, of channels and filters."""

    width: int
    stride: int
    dtype: str


CASES = {
    "depthwise": Case(1, 1, "float32"),
    "strided depthwise": Case(1, 2, "float32"),
    "grouped": Case(8, 1, "float32"),
    "strided grouped, bfloat16": Case(8, 2, "bfloat16"),
}


def collectives(case: Case, role: int, sharding: str, implementation: str) -> dict[str, int]:
    """How many collectives of each kind the compiled program holds."""
    width, stride, dtype = case
    images, groups = SHARDINGS[sharding]
    if implementation == "accelerate":
        kernel: tuple[int, ...] = (3, 3, width, 64)
        convolve: Callable[..., jax.Array] = grouped_conv_jax.accelerate(
            functools.partial(
                jax.lax.conv_general_dilated,
                window_strides=(stride, stride),
                padding="SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=64 // width,
            )
        )
    else:
        kernel = (3, 3, width, width, 64 // width)
        convolve = functools.partial(
            grouped_conv_jax.grouped_conv2d,
            stride=stride,
            padding="same",
            implementation=None if implementation == "default" else implementation,
        )

    def program(x: jax.Array, filters: jax.Array, cotangent: jax.Array) -> jax.Array:
        y, pull = jax.vjp(convolve, x, filters)
        return (*pull(cotangent), y)[role]

    shapes = (8, 16, 16, 64), kernel, (8, 16 // stride, 16 // stride, 64)
    specs = images, P(*[None] * (len(kernel) - 1), groups), images
    shardings = [NamedSharding(MESH, spec) for spec in specs]
    arguments = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for shape, sharding in zip(shapes, shardings, strict=True)
    ]
    compiled = jax.jit(program, out_shardings=shardings[role]).lower(*arguments).compile()
    found = re.findall(rf" ({COLLECTIVES})(?:-start)?\(", compiled.as_text())
    return {kind: found.count(kind) for kind in sorted(set(found))}
