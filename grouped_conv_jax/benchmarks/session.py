"""A benchmark run over convolutions and networks."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from grouped_conv_jax.benchmarks import harness, machine, report, training
from grouped_conv_jax.benchmarks.cases import BATCH, Case
from grouped_conv_jax.benchmarks.harness import Harness, Settings
from grouped_conv_jax.benchmarks.networks import IMAGE_SIZE
from grouped_conv_jax.benchmarks.progress import Progress
from grouped_conv_jax.benchmarks.pytorch import Torch
from grouped_conv_jax.benchmarks.tables import format_role


def measure(
    cases: dict[Case, list[str]],
    networks: Sequence[str],
    settings: Settings,
    *,
    batch: int | None = None,
    image_size: int = IMAGE_SIZE,
) -> dict[str, Any]:
    """Measures convolutions and networks, and shows the progress.

    Args:
        cases: the convolutions, each with the suites that contain it.
        networks: names of networks whose training steps to measure.
        settings: how to measure.
        batch: number of images for the networks, or ``None`` for the default of the suites.
        image_size: height and width of the networks' images.

    Returns:
        A document for :mod:`grouped_conv_jax.benchmarks.results`.

    Raises:
        TorchUnavailableError: PyTorch is a contender but unavailable.
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
    convolutions = Harness(settings, document["roofline"], torch)
    with Progress(len(tasks) + len(networks)) as progress:
        for task in tasks:
            progress.start(f"{task.case}, {format_role(task.role.name)}")
            records = convolutions.measure(task)
            document["measurements"] += records
            progress.finish(report.describe(records))
        for name in networks:
            progress.start(name)
            records = training.measure(name, settings, torch, batch or BATCH, image_size)
            pages = {"pages": document["machine"]["pages"]}
            document["networks"] += [record | pages for record in records]
            progress.finish(report.describe(records))
    return document
