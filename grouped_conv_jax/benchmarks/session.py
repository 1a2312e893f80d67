"""One run: everything that was asked for, one measurement after the other."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from grouped_conv_jax.benchmarks import harness, machine, report, training
from grouped_conv_jax.benchmarks.harness import Harness, Settings
from grouped_conv_jax.benchmarks.networks import IMAGE_SIZE
from grouped_conv_jax.benchmarks.progress import Progress
from grouped_conv_jax.benchmarks.pytorch import Torch
from grouped_conv_jax.benchmarks.suites import BATCH, Case


def measure(
    cases: dict[Case, list[str]],
    networks: Sequence[str],
    settings: Settings,
    *,
    batch: int | None = None,
    image_size: int = IMAGE_SIZE,
) -> dict[str, Any]:
    """Measures cases and networks, and shows how far it is.

    Args:
        cases: the convolutions, and the suites that hold each.
        networks: names of whole networks, for a training step of each.
        settings: how to measure.
        batch: number of images for the networks, or ``None`` for the suites' own.
        image_size: of the networks' images.

    Returns:
        A document for :mod:`grouped_conv_jax.benchmarks.results`.

    Raises:
        TorchUnavailableError: PyTorch is to take part and cannot.
    """
    torch = Torch(machine.cores()) if "torch" in settings.against else None
    document: dict[str, Any] = {
        "versions": machine.versions(),
        "machine": machine.describe(),
        "settings": dataclasses.asdict(settings)
        | {"roles": [role.name.lower() for role in settings.roles], "batch": batch},
        "roofline": machine.measure_roofline(settings.dtype),
        "measurements": [],
        "networks": [],
    }
    tasks = harness.tasks(cases, settings)
    one_by_one = Harness(settings, document["roofline"], torch)
    with Progress(len(tasks) + len(networks)) as progress:
        for task in tasks:
            progress.start(f"{task.case}, {report.words(task.role.name)}")
            records = one_by_one.measure(task)
            document["measurements"] += records
            progress.finish(report.describe(records))
        for name in networks:
            progress.start(name)
            records = training.measure(name, settings, torch, batch or BATCH, image_size)
            pages = {"pages": document["machine"]["pages"]}
            document["networks"] += [record | pages for record in records]
            progress.finish(report.describe(records))
    return document
