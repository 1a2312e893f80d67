"""``grouped-conv-jax bench``: compares grouped convolutions with lax and PyTorch."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grouped_conv_jax.benchmarks import results
from grouped_conv_jax.benchmarks.networks import NETWORKS
from grouped_conv_jax.benchmarks.suites import SUITES, collect
from grouped_conv_jax.commands import _other_process, _run_directory
from grouped_conv_jax.commands._errors import CommandError, require
from grouped_conv_jax.commands._one_case import one_case, sizes
from grouped_conv_jax.commands._options import flag, positive, positive_integer
from grouped_conv_jax.operation._choice import check_implementation
from grouped_conv_jax.operation._description import Role

SUMMARY = "compare grouped convolutions with lax and PyTorch"
DESCRIPTION = """\
Measures each role of grouped convolutions separately: forward pass, input gradient and
filter gradient. Checks every result against float64 before timing it. Contenders
alternate in one process, in blocks of back-to-back calls, and the reported time is the
lower quartile of all calls. Page faults and system time are per call of this package.
"""
EPILOG = """\
examples:
  bench --suite mobilenet-v2 alexnet --against lax torch --json results.json
  bench --shape 8,56,56,128 --filter-size 3 --groups channel-wise --padding same
  bench --network mobilenet-v2 --against lax torch
  bench --suite all --one-thread
  bench --from-json run-1.json run-2.json --markdown - --plot speedups.png
  bench --suite resnext-50-32x4d --compile-for v5e --dtype bfloat16 --json v5e.json

The peak is the rate of the fastest matrix product measured at the start. The roofline
is a lower bound on the time: the time to move operands and result at the highest copy
rate measured at the start, or to do the operations at the peak, whichever is longer.
Operations on padding count. If this process uses huge pages, a child process measures
networks again with small pages, unless --no-huge-pages is given. The exit status is 0
if all results of this package are correct, 1 if not, and 2 for invalid arguments.
"""

_ALL = "all"
_DTYPES = ("float32", "bfloat16", "float16")
_ROLES = {role.name.lower().replace("_", "-"): role for role in reversed(Role)}
_SHAPE_OPTIONS = ("filters", "filter_size", "stride", "dilation", "groups", "padding")
_ROLE_OPTIONS = ("role", "implementation", "dtype")
_TIMING_OPTIONS = ("rounds", "seconds", "one_thread")
_MEASURING_OPTIONS = ("against", *_ROLE_OPTIONS, *_TIMING_OPTIONS, "batch", "compile_for")
# A copy of `estimates.TARGETS`, whose module is too expensive to import for --help.
_TARGETS = ("v5e", "v6e", "v5p")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options without defaults, so that options without effect can be rejected."""
    what = parser.add_argument_group("what to measure or show")
    how = parser.add_argument_group("how to measure")
    shape = parser.add_argument_group("the convolution of --shape")
    out = parser.add_argument_group("what to write")

    def add(group: Any, name: str, help: str, **kwargs: Any) -> None:
        group.add_argument(name, help=help, default=argparse.SUPPRESS, **kwargs)

    names = (*SUITES, _ALL)
    listed = ", ".join(names)
    add(what, "--suite", listed, nargs="+", choices=names, metavar="NAME")
    add(what, "--shape", "one convolution with this input shape", type=sizes, metavar="B,H,W,C")
    add(
        what,
        "--network",
        f"a training step of {', '.join(NETWORKS)}",
        nargs="+",
        choices=tuple(NETWORKS),
        metavar="NAME",
    )
    add(
        what,
        "--from-json",
        "show the results of earlier runs, combined by medians, instead of measuring",
        nargs="+",
        type=Path,
        metavar="FILE",
    )

    add(shape, "--filters", "total over groups (default: C)", type=positive_integer, metavar="N")
    add(shape, "--filter-size", "(default: 3)", type=sizes, metavar="K|H,W")
    add(shape, "--stride", "(default: 1)", type=sizes, metavar="N|V,H")
    add(shape, "--dilation", "(default: 1)", type=sizes, metavar="N|V,H")
    add(shape, "--groups", "(default: channel-wise)", metavar="N|channel-wise")
    add(shape, "--padding", "(default: same)", metavar="same|valid|P|T,B,L,R")

    add(
        how,
        "--against",
        "lax, torch (in its faster layout), or nothing (default: lax)",
        nargs="*",
        choices=("lax", "torch"),
        metavar="NAME",
    )
    add(how, "--dtype", "(default: float32)", choices=_DTYPES)
    roles = f"{', '.join(_ROLES)} (default: all)"
    add(how, "--role", roles, nargs="+", choices=tuple(_ROLES), metavar="ROLE")
    add(how, "--implementation", "force one of this package (default: chosen)", metavar="NAME")
    add(how, "--batch", "images, for --suite and --network (default: 8)", type=positive_integer)
    add(how, "--rounds", "blocks per contender (default: 3)", type=positive_integer)
    add(how, "--seconds", "duration of a block (default: 0.3)", type=positive, metavar="S")
    add(
        how,
        "--one-thread",
        "also measure this package on one core, in a child process (Linux)",
        action="store_true",
    )

    add(
        how,
        "--compile-for",
        "report a TPU compiler's estimates instead of times; needs no TPU, but jax[tpu]",
        choices=_TARGETS,
        metavar="|".join(_TARGETS),
    )

    add(out, "--json", "all measurements, for --from-json", type=Path, metavar="FILE")
    add(out, "--markdown", "Markdown tables; - prints them", metavar="FILE|-")
    add(out, "--plot", "PNG of the speedups", type=Path, metavar="FILE")


def run(arguments: argparse.Namespace) -> int:
    """Measures or reads results, then prints and writes them.

    Returns:
        0, or 1 if a result of this package is wrong or missing.

    Raises:
        CommandError: options are inconsistent, a requirement is missing, or a file is unreadable.
    """
    given = vars(arguments)
    _check_options(given)
    _check_possible(given)
    documents = _read(given["from_json"]) if "from_json" in given else [_measure(given)]
    try:
        _write(given, documents)
    except results.UnreadableError as error:
        raise CommandError(str(error)) from error
    wrong = [
        record
        for document in documents
        for record in results.failures(document)
        if record["contender"] == "ours"
    ]
    return int(bool(wrong))


def _check_options(given: dict[str, Any]) -> None:
    sources = [name for name in ("suite", "shape", "network", "from_json") if name in given]
    if not sources:
        raise CommandError("nothing to measure: give --suite, --shape, --network or --from-json")
    if len(sources) > 1 and sources != ["suite", "network"]:
        raise CommandError(f"{flag(sources[0])} and {flag(sources[1])} exclude each other")
    if "compile_for" in given and "torch" in given.get("against", ()):
        raise CommandError("--against torch is for a device")
    cases = "suite" in given or "shape" in given
    # Training steps compile in any dtype, but are measured in float32 only.
    roles = ("role", "implementation") if "compile_for" in given else _ROLE_OPTIONS
    without_effect = {
        "--shape": _SHAPE_OPTIONS if "shape" not in given else (),
        "--suite, --shape and --network": _MEASURING_OPTIONS if "from_json" in given else (),
        "--suite and --shape": () if cases else roles,
        "--suite and --network": ("batch",) if "shape" in given else (),
        "measurements": ("json",) if "from_json" in given else (),
        "a device": _TIMING_OPTIONS if "compile_for" in given else (),
    }
    for purpose, names in without_effect.items():
        for name in names:
            if name in given:
                raise CommandError(f"{flag(name)} is for {purpose}")


def _check_possible(given: dict[str, Any]) -> None:
    """Checks requirements and output paths before any work is done."""
    if "one_thread" in given and not hasattr(os, "sched_setaffinity"):
        raise CommandError("--one-thread needs Linux, to pin a process to one core")
    if "plot" in given:
        require("matplotlib")
    for name in ("json", "markdown", "plot"):
        path = given.get(name)
        if path not in (None, "-") and not Path(path).parent.is_dir():
            raise CommandError(f"{flag(name)} {path}: there is no directory {Path(path).parent}")


def _measure(given: dict[str, Any]) -> dict[str, Any]:
    from grouped_conv_jax.benchmarks import estimates, session
    from grouped_conv_jax.benchmarks.harness import Settings
    from grouped_conv_jax.benchmarks.pytorch import TorchUnavailableError

    options: dict[str, Any] = {
        name: given[name] for name in ("dtype", "rounds", "seconds") if name in given
    }
    if "against" in given:
        options["against"] = tuple(dict.fromkeys(given["against"]))
    if "role" in given:
        options["roles"] = tuple(_ROLES[name] for name in dict.fromkeys(given["role"]))
    batch = given.get("batch")
    suites = given.get("suite", [])
    try:
        options["implementation"] = check_implementation(given.get("implementation"))
        cases = collect(list(SUITES) if _ALL in suites else suites, batch)
        if "shape" in given:
            cases = {one_case(given): []}
    except ValueError as error:
        raise CommandError(str(error)) from error
    networks = given.get("network", [])
    if "compile_for" in given:
        target, settings = given["compile_for"], Settings(**options)
        try:
            return estimates.estimate(cases, networks, settings, target, batch=batch)
        except estimates.CompilerUnavailableError as error:
            raise CommandError(f"--compile-for {target}: {error}") from error
    only_networks = _repeated(given, but=("suite", *_ROLE_OPTIONS))
    try:
        document = session.measure(cases, networks, Settings(**options), batch=batch)
        if "one_thread" in given:
            _other_process.add_one_thread(document, _repeated(given, but=("against",)))
        if networks and "no_huge_pages" not in given:
            _other_process.add_small_pages(document, only_networks)
    except TorchUnavailableError as error:
        raise CommandError(f"--against torch: {error}") from error
    return document


def _repeated(given: dict[str, Any], but: Sequence[str]) -> list[str]:
    """Returns the options that repeat the measurement, except those in ``but``."""
    words = []
    for name in ("suite", "shape", "network", *_SHAPE_OPTIONS, *_MEASURING_OPTIONS):
        if name in given and name not in (*but, "one_thread"):
            value = given[name]
            several = value if isinstance(value, list) else [value]
            words += [flag(name), *(_word(one) for one in several)]
    return words


def _word(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _read(paths: list[Path]) -> list[dict[str, Any]]:
    documents = []
    for path in paths:
        try:
            documents.append(results.from_json(path.read_text()))
        except (ValueError, OSError) as error:
            raise CommandError(f"{path} cannot be read: {error}") from error
    return documents


def _write(given: dict[str, Any], documents: list[dict[str, Any]]) -> None:
    """Writes the files atomically and prints the tables."""
    from grouped_conv_jax.benchmarks import report

    if "json" in given:
        # Write the JSON first: the other outputs can be derived from it.
        _write_file(given["json"], results.to_json(documents[0]).encode())
    combined = results.combine(documents)
    if given.get("markdown") != "-":
        print(report.to_text(combined))
    if "markdown" in given:
        text = report.to_markdown(documents)
        if given["markdown"] == "-":
            print(text, end="")
        else:
            _write_file(Path(given["markdown"]), text.encode())
    if "plot" in given:
        from grouped_conv_jax.benchmarks import plot

        _write_file(given["plot"], plot.draw(combined))


def _write_file(path: Path, content: bytes) -> None:
    _run_directory.write(path.parent, path.name, content)
