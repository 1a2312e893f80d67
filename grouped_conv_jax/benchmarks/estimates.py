"""What a TPU's compiler estimates, without the TPU: cycles, memory and operations of each role.

The compiler comes with ``jax[tpu]``. Its cycles are estimates, and much too high for some fusions:
they rank programs of one kind, and say nothing about seconds.
"""

import os
import re
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from grouped_conv_jax.benchmarks import contenders, harness, machine, report, timing
from grouped_conv_jax.benchmarks.harness import Settings, Task
from grouped_conv_jax.benchmarks.progress import Progress
from grouped_conv_jax.benchmarks.suites import Case

# The smallest topology of each that the compiler knows.
TARGETS = {"v5e": "v5e:2x2", "v6e": "v6e:2x2", "v5p": "v5p:2x2x1"}
# libtpu reads these when it is loaded; with them it asks nobody for a TPU.
_ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


class CompilerUnavailableError(RuntimeError):
    """There is no compiler for the target."""


def estimate(
    cases: dict[Case, list[str]], settings: Settings, target: str, *, batch: int | None = None
) -> dict[str, Any]:
    """Compiles every role of every case, and shows how far it is.

    Args:
        cases: the convolutions, and the suites that hold each.
        settings: what to compile; its rounds and seconds do not matter here.
        target: one of :data:`TARGETS`.
        batch: number of images that the cases were given, for the record.

    Returns:
        A document for :mod:`grouped_conv_jax.benchmarks.results`.

    Raises:
        CompilerUnavailableError: there is no compiler for the target.
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
    with Progress(len(tasks)) as progress:
        for task in tasks:
            progress.start(f"{task.case}, {report.words(task.role.name)}")
            records: list[dict[str, Any]] = []
            for name in names:
                records.append(_record(name, task, settings, device, records))
            document["measurements"] += records
            progress.finish(report.describe(records))
    return document


def _device(target: str) -> Any:
    """One device of the target, described by its compiler."""
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
    """What is known of one role of one case, compiled by one contender after others."""
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
            return other | record  # It is the same program.
    record |= {
        "case": str(case),
        "suites": suites,
        "role": role.name.lower(),
        "dtype": settings.dtype,
    }
    shapes = (case.shape(operand) for operand in role.operands)
    place = SingleDeviceSharding(device)
    operands = [jax.ShapeDtypeStruct(s, settings.dtype, sharding=place) for s in shapes]
    program = contenders.program(case, role, settings.dtype, implementation)
    # Whatever the compiler raises is what is to be known about it.
    try:
        compiled, details = contenders.compile_jax(program, *operands)
        return record | details | costs(compiled)
    except Exception as failure:
        return record | {"failure": timing.describe(failure)}


def costs(compiled: Any) -> dict[str, int]:
    """The compiler's estimates of a whole program.

    Raises:
        ValueError: it gives no cycles.
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
