"""Compiles programs for TPU v5e, without a TPU, and checks their collectives and estimates.

Needs ``jax[tpu]``. A program gathers if it holds a kind of collective that devices do not need to
compute their own shards. ``KNOWN`` lists the programs that gather: one more or one less fails.
``GAINS`` lists convolutions that the choice for TPUs is there for.
"""

# ruff: noqa: T201

import functools
import itertools
import os
import re
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

# JAX and libtpu read these when they are loaded.
os.environ.update(
    JAX_PLATFORMS="cpu",
    TPU_SKIP_MDS_QUERY="1",
    TPU_WORKER_HOSTNAMES="localhost",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
)

import jax
from jax.experimental import topologies
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from grouped_conv_jax import accelerate, grouped_conv2d
from grouped_conv_jax.benchmarks import estimates
from grouped_conv_jax.benchmarks.cases import Case
from grouped_conv_jax.benchmarks.harness import Settings

BOTH = ("data", "model")
MESH = topologies.make_mesh(topologies.get_topology_desc("v5e:2x2", "tpu"), (2, 2), BOTH)
KINDS = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
BATCH, CHANNELS = 8, 256
# Of 3x3 filters: channels per group and filters per group, image, stride, dtype.
CASES = {
    "depthwise": (1, (16, 8), 1, "float32"),
    "strided depthwise": (1, (16, 16), 2, "float32"),
    "grouped": (8, (16, 8), 1, "float32"),
    "strided grouped bfloat16": (8, (32, 16), 2, "bfloat16"),
}
# The sharding of images, and of the groups of the filters.
SHARDINGS: dict[str, tuple[P, Any]] = {
    "batch": (P(BOTH), None),
    "groups": (P(None, None, None, BOTH), BOTH),
    "batch and groups": (P("data", None, None, "model"), "model"),
    "height": (P(None, BOTH), None),
}
# The results have the shapes and shardings of x, the filters and the output.
ROLES = ("input gradient", "filter gradient", "forward")
IMPLEMENTATIONS = ("default", "accelerate", "taps", "blocks")
# Patterns of case, sharding, role and implementation; and why these programs gather.
KNOWN = {
    ("depthwise", "height", "filter*", "taps"): "taps slices the sharded rows of the cotangent",
    ("*", "height", "filter*", "blocks"): "XLA gathers the rows for lax's gradient",
    ("*grouped*", "height", "filter*", "default"): "XLA gathers the rows for lax's gradient",
    ("*grouped*", "height", "filter*", "accelerate"): "XLA gathers the rows for lax's gradient",
}

# Of 3x3 filters: channels of all groups, groups, image, stride; and, for forward pass, input and
# filter gradient, how many times this package's cycles lax's are estimated to be at least.
GAINS = {
    "4 channels": (128, 32, 56, 1, (20, 20, 20)),
    "16 channels": (512, 32, 14, 1, (4, 3, 1.5)),
    "2 channels": (128, 64, 28, 1, (30, 30, 3)),
    "strided, 8 channels": (256, 32, 56, 2, (25, 3, 30)),
}


def array(shape: tuple[int, ...], spec: P, dtype: str = "float32") -> jax.ShapeDtypeStruct:
    """The description of a sharded array."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(MESH, spec))


def collectives(compute: Callable[..., Any], *arrays: Any, out: Any) -> dict[str, int]:
    """Compiles a program and returns how many collectives of each kind it holds."""
    compiled = jax.jit(compute, out_shardings=out).lower(*arrays).compile()
    found = re.findall(rf" ({KINDS})(?:-start)?\(", compiled.as_text() or "")
    return {kind: found.count(kind) for kind in sorted(set(found))}


def of_convolution(case: str, sharding: str, role: str, implementation: str) -> dict[str, int]:
    """The collectives of one role of a convolution."""
    width, image, stride, dtype = CASES[case]
    groups, outputs = CHANNELS // width, (image[0] // stride, image[1] // stride)
    if implementation == "accelerate":
        kernel: tuple[int, ...] = (3, 3, width, CHANNELS)
        convolve = functools.partial(
            accelerate(jax.lax.conv_general_dilated),
            window_strides=(stride, stride),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
    else:
        kernel = (3, 3, width, width, groups)
        name = None if implementation == "default" else implementation
        convolve = functools.partial(
            grouped_conv2d, stride=stride, padding="same", implementation=name
        )

    def compute(x: jax.Array, filters: jax.Array, cotangent: jax.Array) -> jax.Array:
        y, pull = jax.vjp(convolve, x, filters)
        return (*pull(cotangent), y)[ROLES.index(role)]

    images, over = SHARDINGS[sharding]
    arrays = (
        array((BATCH, *image, CHANNELS), images, dtype),
        array(kernel, P(*[None] * (len(kernel) - 1), over), dtype),
        array((BATCH, *outputs, CHANNELS), images, dtype),
    )
    return collectives(compute, *arrays, out=arrays[ROLES.index(role)].sharding)


def is_merged(case: str) -> bool:
    """Whether the groups of a case are merged as far as four devices allow."""
    width, image, stride, dtype = CASES[case]
    convolve = functools.partial(grouped_conv2d, stride=stride, padding="same")
    arrays = (
        array((BATCH, *image, CHANNELS), P(), dtype),
        array((3, 3, width, width, CHANNELS // width), P(), dtype),
    )
    return "feature_group_count = 4 " in jax.jit(convolve).lower(*arrays).as_text()


def needed(sharding: str, role: str) -> set[str]:
    """The kinds of collectives that devices need to compute their own shards."""
    halos = {"collective-permute"} if sharding == "height" else set()
    summed = role == "filter gradient" and sharding != "groups"
    return halos | {"all-reduce"} if summed else halos


def custom_partitioning_error() -> str:
    """The compiler's reason to refuse a custom partitioning."""
    double = custom_partitioning(lambda x: 2 * x)
    double.def_partition(
        lambda mesh, xs, y: (mesh, lambda x: 2 * x, y.sharding, (xs[0].sharding,)),
        lambda *given: given[1][0].sharding,
        sharding_rule="i j -> i j",
    )
    x = array((8, 8), P(BOTH))
    try:
        collectives(double, x, out=x.sharding)
    except jax.errors.JaxRuntimeError as error:
        return str(error).strip().splitlines()[0]
    return "is accepted now"


def gains(name: str) -> dict[str, str]:
    """What is wrong with the gain of each role of a convolution; nothing if it is empty."""
    channels, groups, size, stride, least = GAINS[name]
    edges = stride % 2, 1
    whole = (BATCH, (size, size), channels, channels, (3, 3), groups)
    case = Case(*whole, (stride, stride), (1, 1), (edges, edges))
    settings = Settings(dtype="bfloat16")
    records = estimates.estimate({case: []}, [], settings, "v5e")["measurements"]
    wrong = {}
    for ours, lax, ratio in zip(records[::2], records[1::2], least, strict=True):
        found = lax["estimated_cycles"] / ours["estimated_cycles"]
        print(name, ours["role"], ours["variant"], f"{found:.2f} times lax", sep=", ", flush=True)
        wrong[f"{name}, {ours['role']}"] = "" if found >= ratio else f"{found:.2f} < {ratio}"
    return wrong


def main() -> int:
    """Checks every program and returns the exit status."""
    replicated = collectives(lambda x: 2 * x, array((8, 8), P(BOTH)), out=NamedSharding(MESH, P()))
    refusal = custom_partitioning_error()
    # What is wrong with each program; nothing if it is empty.
    wrong = {
        "a gather": "" if "all-gather" in replicated else f"is not seen, but {replicated}",
        "custom partitioning": "" if "CustomSPMDPartitioning not found" in refusal else refusal,
    }
    for name in GAINS:
        wrong |= gains(name)
    for case in CASES:
        right = is_merged(case) == ("grouped" in case)
        wrong[f"the choice for {case}"] = "" if right else "is another one"
    gathers = []
    for program in itertools.product(CASES, SHARDINGS, ROLES, IMPLEMENTATIONS):
        case, sharding, role, implementation = program
        if implementation == "taps" and CASES[case][2] > 1:
            continue  # What is not chosen for TPUs is compiled in the plain cases alone.
        if implementation == "taps" and CASES[case][0] > 1:
            continue  # It takes few channels per group.
        name = ", ".join(program)
        # Before compiling, since libtpu aborts the process when one of its own checks fails.
        print(name, end=": ", flush=True)
        try:
            found = of_convolution(*program)
        except Exception as error:
            print("does not compile", flush=True)
            wrong[name] = f"does not compile: {error}"
            continue
        print(found or "none", flush=True)
        known = next((KNOWN[key] for key in KNOWN if all(map(fnmatch, program, key))), None)
        if needed(sharding, role).issuperset(found):
            wrong[name] = "no longer gathers: remove it from KNOWN" if known else ""
        else:
            gathers.append(f"{name}: {known or 'not in KNOWN'}")
            wrong[name] = "" if known else f"gathers now: {found}"

    print("These gather:", *gathers, sep="\n  ")
    failures = [f"FAILED {name}: {failure}" for name, failure in wrong.items() if failure]
    print(*failures, f"{len(wrong) - len(failures)} passed, {len(failures)} failed", sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
