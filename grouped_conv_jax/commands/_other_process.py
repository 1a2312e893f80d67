"""Repeats ``bench`` in a child process, with settings that are fixed when a process starts.

These are the number of threads, which JAX derives from the CPU affinity, and the size of the pages
that the allocator uses.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from grouped_conv_jax.benchmarks import memory_allocator, results
from grouped_conv_jax.commands import _huge_pages
from grouped_conv_jax.commands._errors import CommandError


def add_one_thread(document: dict[str, Any], options: Sequence[str]) -> None:
    """Adds this package's times on one core to its records.

    Args:
        document: the measurements on all cores.
        options: options of ``bench`` for the same measurements.

    Raises:
        CommandError: the child process fails.
    """
    with _on_one_core():
        alone = _measure("on one core", [*options, "--against"], os.environ)
    for part in ("measurements", "networks"):
        found = {results.identity(record): record for record in alone[part]}
        for record in document[part]:
            other = found.get(results.identity(record), {})
            if "milliseconds" in other and "milliseconds" in record:
                record["one_thread_milliseconds"] = other["milliseconds"]


def add_small_pages(document: dict[str, Any], options: Sequence[str]) -> None:
    """Adds records of networks with small pages, if this process requested huge ones.

    Args:
        document: the measurements with huge pages.
        options: options of ``bench`` for the same networks.

    Raises:
        CommandError: the child process fails.
    """
    environment = memory_allocator.without_huge_pages(os.environ)
    found = memory_allocator.describe(
        memory_allocator.libc(), memory_allocator.page_setting(), environment
    )
    if found["pages"] != document["machine"]["pages"]:
        document["networks"] += _measure("with small pages", options, environment)["networks"]


def _measure(how: str, options: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    print(f"measuring again {how}, in a child process", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "run.json")
        command = [sys.executable, "-m", "grouped_conv_jax", "bench", *options]
        subprocess.run(
            [*command, _huge_pages.OPTION, "--json", str(path)],
            env=dict(environment),
            stdout=subprocess.DEVNULL,
        )
        if not path.is_file():
            raise CommandError(f"measuring {how} failed", exit_status=1)
        return results.from_json(path.read_text())


@contextlib.contextmanager
def _on_one_core() -> Iterator[None]:
    """Pins this thread, and the processes that it starts, to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
