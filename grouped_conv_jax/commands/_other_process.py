"""Runs ``bench`` once more in a process of its own, for what is settled when a process starts.

That is the number of threads, which follows from the cores that the process may use, and the pages
that the allocator gets.
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
    """Adds how long this package takes on one core to its records.

    Args:
        document: the measurements, with all cores.
        options: of ``bench`` for the same ones.

    Raises:
        CommandError: there are no figures.
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
    """Adds the records of networks with small pages, where this process asked for huge ones.

    Args:
        document: the measurements with huge pages.
        options: of ``bench`` for the same networks.

    Raises:
        CommandError: there are no figures.
    """
    environment = memory_allocator.without_huge_pages(os.environ)
    found = memory_allocator.describe(
        memory_allocator.libc(), memory_allocator.page_setting(), environment
    )
    if found["pages"] != document["machine"]["pages"]:
        document["networks"] += _measure("with small pages", options, environment)["networks"]


def _measure(how: str, options: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    print(f"once more {how}, in a process of its own", file=sys.stderr, flush=True)
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
    """Keeps this thread, and the processes that it starts, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
