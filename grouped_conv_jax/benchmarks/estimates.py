"""Cycles, memory and operations of each role as estimated by the TPU compiler, without a TPU.

The compiler comes with ``jax[tpu]``. Its estimates are far too high for some fusions: they rank
similar programs but do not predict times.
"""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from grouped_conv_jax.benchmarks import (
    contenders,
    harness,
    machine,
    network_linen,
    report,
    timing,
    training,
)
from grouped_conv_jax.benchmarks.cases import BATCH, Case
from grouped_conv_jax.benchmarks.harness import Settings, Task
from grouped_conv_jax.benchmarks.networks import IMAGE_SIZE, NETWORKS
from grouped_conv_jax.benchmarks.progress import Progress
from grouped_conv_jax.benchmarks.tables import format_role

# The smallest topology of each target that the compiler supports.
TARGETS = {"v5e": "v5e:2x2", "v6e": "v6e:2x2", "v5p": "v5p:2x2x1"}
# libtpu reads these variables when it is loaded; they keep it from searching for a TPU.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


class CompilerUnavailableError(RuntimeError):
    """The compiler for the target is not available."""


def estimate(
    cases: dict[Case, list[str]],
    networks: Sequence[str],
    settings: Settings,
    target: str,
    *,
    batch: int | None = None,
    image_size: int = IMAGE_SIZE,
) -> dict[str, Any]:
    """Compiles convolutions and training steps, and shows the progress.

    Args:
        cases: the convolutions, each with the suites that contain it.
        networks: names of networks, whose Linen training steps are compiled in one dtype.
        settings: the contenders and roles to compile; rounds and seconds are ignored.
        target: one of :data:`TARGETS`.
        batch: number of images for the networks, or ``None`` for the default of the suites.
        image_size: height and width of the networks' images.

    Returns:
        A document for :mod:`grouped_conv_jax.benchmarks.results`.

    Raises:
        CompilerUnavailableError: the compiler for the target is not available.
    """
    device = _device(target)
    document: dict[str, Any] = {
        "versions": machine.versions(),
        "machine": {"platform": "tpu", "device": device.device_kind, "estimated": True},
        "settings": {
            "against": settings.against,
            "dtype": settings.dtype,
            "implementation": settings.implementation,
            "roles": [role.name.lower() for role in settings.roles],
            "batch": batch,
        },
        "roofline": {},
        "measurements": [],
        "networks": [],
    }
    tasks, names = harness.tasks(cases, settings), ("ours", *settings.against)
    with Progress(len(tasks) + len(networks)) as progress:
        for task in tasks:
            progress.start(f"{task.case}, {format_role(task.role.name)}")
            records: list[dict[str, Any]] = []
            for name in names:
                records.append(_record(name, task, settings, device, records))
            document["measurements"] += records
            progress.finish(report.describe(records))
        for network in networks:
            progress.start(network)
            shape = (batch or BATCH, image_size, image_size, 3)
            records = [_step(network, n, shape, settings.dtype, device) for n in names]
            document["networks"] += records
            progress.finish(report.describe(records))
    return document


def _device(target: str) -> Any:
    """Returns the compiler's description of a device of the target."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        return topologies.get_topology_desc(TARGETS[target], "tpu").devices[0]
    except Exception as error:
        reason = timing.describe(error)
        raise CompilerUnavailableError(f'needs `pip install "jax[tpu]"` ({reason})') from error


def _record(
    name: str, task: Task, settings: Settings, device: Any, others: list[dict[str, Any]]
) -> dict[str, Any]:
    """Returns the record of one contender; reuses an earlier one with the same program."""
    case, role, suites = task
    implementation = "lax" if name == "lax" else settings.implementation
    choice = contenders.chosen(case, role, settings.dtype, "tpu", implementation)
    record: dict[str, Any] = {
        "contender": name,
        "variant": choice.implementation,
        "reason": choice.reason,
    }
    for other in others:
        if other["variant"] == choice.implementation:
            return other | record
    record |= {
        "case": str(case),
        "suites": suites,
        "role": role.name.lower(),
        "dtype": settings.dtype,
    }
    operands = [jax.ShapeDtypeStruct(case.shape(r), settings.dtype) for r in role.operands]
    program = contenders.program(case, role, settings.dtype, implementation)
    return record | _compile(program, operands, device)


def _step(
    network: str, name: str, shape: tuple[int, ...], dtype: str, device: Any
) -> dict[str, Any]:
    """Returns the record of a network's training step with one contender's convolutions."""
    found: list[Any] = []

    def prepare(images: jax.Array) -> Any:
        step, state = network_linen.training_step(
            NETWORKS[network], training.CONVOLUTIONS[name], images
        )
        found.append(step)
        return state

    images = jax.ShapeDtypeStruct(shape, "float32")
    state, images = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype),
        (jax.eval_shape(prepare, images), images),
    )
    labels = jax.ShapeDtypeStruct(shape[:1], "int32")
    about = {"network": network, "contender": name, "variant": "linen", "dtype": dtype}
    sizes = {"batch": shape[0], "image_size": shape[1]}
    return about | sizes | _compile(found[0], (state, images, labels), device)


def _compile(program: Callable[..., Any], arguments: Sequence[Any], device: Any) -> dict[str, Any]:
    """Returns the estimates of a program, or its failure."""
    place = SingleDeviceSharding(device)
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), arguments
    )
    # Record any error of the compiler.
    try:
        compiled, details = contenders.compile_jax(program, *placed)
        return details | costs(compiled)
    except Exception as failure:
        return {"failure": timing.describe(failure)}


def costs(compiled: Any) -> dict[str, int]:
    """Returns the compiler's estimates for a whole program.

    Raises:
        ValueError: the program contains no estimated cycles.
    """
    cycles = [int(found) for found in _CYCLES.findall(compiled.as_text())]
    if not cycles:
        raise ValueError("the compiled program holds no estimated cycles")
    cost = compiled.cost_analysis()
    return {
        "estimated_cycles": sum(cycles),
        "flops": int(cost["flops"]),
        "bytes": int(cost["bytes accessed"]),
    }
