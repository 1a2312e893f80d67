"""``grouped-conv-jax bench``: measures grouped convolutions against lax and PyTorch."""

import argparse
from pathlib import Path
from typing import Any

from grouped_conv_jax import _checks
from grouped_conv_jax._choice import check_implementation
from grouped_conv_jax._convolution import Role
from grouped_conv_jax._padding import Padding
from grouped_conv_jax.benchmarks import results
from grouped_conv_jax.benchmarks.networks import NETWORKS
from grouped_conv_jax.benchmarks.suites import SUITES, Case, collect
from grouped_conv_jax.commands import _run_directory
from grouped_conv_jax.commands._errors import CommandError, require
from grouped_conv_jax.commands._options import positive, positive_integer

SUMMARY = "measure grouped convolutions against lax and PyTorch"
DESCRIPTION = """\
Measures grouped convolutions, each role on its own: forward pass, input gradient and
filter gradient. Every result is checked against float64 before it is timed. Contenders
take turns in one process, and the medians count.
"""
EPILOG = """\
examples:
  bench --suite mobilenet-v2 alexnet --against lax torch --json results.json
  bench --shape 8,56,56,128 --filter-size 3 --groups channel-wise --padding same
  bench --network mobilenet-v2 --against lax torch
  bench --from-json run-1.json run-2.json --markdown - --plot speedups.png

The roofline is the time that copying the operands and the result would take, or
multiplying as often, at the highest rates that were measured at the start; operations
are counted as if padding were pixels too. The exit status is 0 if all results of this
package were right, 1 if not, 2 for arguments that are refused.
"""

_ALL = "all"
_DTYPES = ("float32", "bfloat16", "float16")
_ROLES = {role.name.lower().replace("_", "-"): role for role in reversed(Role)}
_SHAPE_OPTIONS = ("filters", "filter_size", "stride", "dilation", "groups", "padding")
_MEASURING_OPTIONS = ("against", "dtype", "role", "implementation", "repeats", "budget", "batch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options. Those not given are absent, so that useless ones can be refused."""
    what = parser.add_argument_group("what to measure, or to show")
    how = parser.add_argument_group("how to measure")
    shape = parser.add_argument_group("the convolution of --shape")
    out = parser.add_argument_group("what to write")

    def add(group: Any, name: str, help: str, **kwargs: Any) -> None:
        group.add_argument(name, help=help, default=argparse.SUPPRESS, **kwargs)

    names = (*SUITES, _ALL)
    listed = ", ".join(names)
    add(what, "--suite", listed, nargs="+", choices=names, metavar="NAME")
    add(what, "--shape", "one convolution, of this input", type=_sizes, metavar="B,H,W,C")
    add(
        what,
        "--network",
        f"a training step of: {', '.join(NETWORKS)}",
        nargs="+",
        choices=tuple(NETWORKS),
        metavar="NAME",
    )
    add(
        what,
        "--from-json",
        "show what runs have written instead of measuring; several are put together",
        nargs="+",
        type=Path,
        metavar="FILE",
    )

    add(shape, "--filters", "all groups together (default: C)", type=positive_integer, metavar="N")
    add(shape, "--filter-size", "(default: 3)", type=_sizes, metavar="K|H,W")
    add(shape, "--stride", "(default: 1)", type=_sizes, metavar="N|V,H")
    add(shape, "--dilation", "(default: 1)", type=_sizes, metavar="N|V,H")
    add(shape, "--groups", "(default: channel-wise)", metavar="N|channel-wise")
    add(shape, "--padding", "(default: same)", metavar="same|valid|P|T,B,L,R")

    add(
        how,
        "--against",
        "lax, torch in the better of its two layouts, or nothing (default: lax)",
        nargs="*",
        choices=("lax", "torch"),
        metavar="NAME",
    )
    add(how, "--dtype", "(default: float32)", choices=_DTYPES)
    add(how, "--role", "(default: all)", nargs="+", choices=tuple(_ROLES), metavar="ROLE")
    add(how, "--implementation", "of this package (default: its choice)", metavar="NAME")
    add(how, "--batch", "images, for --suite and --network (default: 8)", type=positive_integer)
    add(how, "--repeats", "turns of each contender (default: 15)", type=positive_integer)
    add(
        how,
        "--budget",
        "after which a contender takes no more turns, two apart (default: 1)",
        type=positive,
        metavar="SECONDS",
    )

    add(out, "--json", "everything, for --from-json", type=Path, metavar="FILE")
    add(out, "--markdown", "tables for a README; - prints them", metavar="FILE|-")
    add(out, "--plot", "a PNG of the speedups", type=Path, metavar="FILE")


def run(arguments: argparse.Namespace) -> int:
    """Measures or reads, then shows and writes.

    Returns:
        0, or 1 if a result of this package was wrong or missing.

    Raises:
        CommandError: the options do not go together, something is missing, or a file is unreadable.
    """
    given = vars(arguments)
    _check_options(given)
    _check_outputs(given)
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
        raise CommandError(f"{_flag(sources[0])} and {_flag(sources[1])} exclude each other")
    cases = "suite" in given or "shape" in given
    useless = {
        "--shape": _SHAPE_OPTIONS if "shape" not in given else (),
        "--suite, --shape and --network": _MEASURING_OPTIONS if "from_json" in given else (),
        "--suite and --shape": ("role", "implementation", "dtype") if not cases else (),
        "--suite and --network": ("batch",) if "shape" in given else (),
        "measurements": ("json",) if "from_json" in given else (),
    }
    for purpose, names in useless.items():
        for name in names:
            if name in given:
                raise CommandError(f"{_flag(name)} is for {purpose}")


def _check_outputs(given: dict[str, Any]) -> None:
    """Finds out before the work whether its results can be written."""
    if "plot" in given:
        require("matplotlib")
    for name in ("json", "markdown", "plot"):
        path = given.get(name)
        if path not in (None, "-") and not Path(path).parent.is_dir():
            raise CommandError(f"{_flag(name)} {path}: there is no directory {Path(path).parent}")


def _measure(given: dict[str, Any]) -> dict[str, Any]:
    from grouped_conv_jax.benchmarks import session
    from grouped_conv_jax.benchmarks.harness import Settings
    from grouped_conv_jax.benchmarks.pytorch import TorchUnavailableError

    options: dict[str, Any] = {
        name: given[name] for name in ("dtype", "repeats", "budget") if name in given
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
            cases = {_one_case(given): []}
    except ValueError as error:
        raise CommandError(str(error)) from error
    try:
        return session.measure(cases, given.get("network", []), Settings(**options), batch=batch)
    except TorchUnavailableError as error:
        raise CommandError(f"--against torch: {error}") from error


def _one_case(given: dict[str, Any]) -> Case:
    """The convolution of --shape and its options.

    Raises:
        ValueError: they do not fit each other.
    """
    if len(given["shape"]) != 4:
        raise ValueError(f"--shape must be B,H,W,C, got {_list(given['shape'])}")
    batch, height, width, channels = given["shape"]
    filters = given.get("filters", channels)
    filter_size, stride, dilation = (
        _pair(name, given.get(name, (default,)))
        for name, default in (("filter_size", 3), ("stride", 1), ("dilation", 1))
    )
    groups = _groups(given.get("groups", "channel-wise"), channels)
    for name, number in (("channels", channels), ("--filters", filters)):
        if number % groups:
            raise ValueError(f"--groups {groups} must divide {name}, got {number}")
    image = height, width
    padding = Padding.parse(_padding(given.get("padding", "same")), 0)
    sides = padding.resolve(image, filter_size, stride, dilation)
    case = Case(batch, image, channels, filters, filter_size, groups, stride, dilation, sides)
    if 0 in case.convolution.outputs:
        extent = case.convolution.effective_filter_size
        raise ValueError(
            f"the filter must fit into the padded image: it covers {_list(extent, 'x')} pixels "
            f"of {_list(case.convolution.padded, 'x')}"
        )
    return case


def _groups(text: str, channels: int) -> int:
    if text.lower().replace("-", "") == "channelwise":
        return channels
    try:
        return _checks.integer("--groups", int(text), 1)
    except ValueError:
        raise ValueError(
            f"--groups must be a positive integer or channel-wise, got {text!r}"
        ) from None


def _padding(text: str) -> Any:
    if text.lower() in ("same", "valid"):
        return text
    try:
        sizes = tuple(map(int, text.split(",")))
    except ValueError:
        sizes = ()
    if len(sizes) not in (1, 4) or min(sizes) < 0:
        raise ValueError(f"--padding must be same, valid, P or T,B,L,R, got {text!r}")
    return sizes[0] if len(sizes) == 1 else sizes


def _pair(name: str, sizes: tuple[int, ...]) -> tuple[int, int]:
    if len(sizes) > 2:
        raise ValueError(f"{_flag(name)} must be one size or two, got {_list(sizes)}")
    return sizes[0], sizes[-1]


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(map(int, text.split(",")))
    except ValueError:
        sizes = (0,)
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(
            f"must be positive integers, separated by commas, got {text!r}"
        )
    return sizes


def _list(sizes: tuple[int, ...], separator: str = ",") -> str:
    return separator.join(map(str, sizes))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _read(paths: list[Path]) -> list[dict[str, Any]]:
    documents = []
    for path in paths:
        try:
            documents.append(results.from_json(path.read_text()))
        except (ValueError, OSError) as error:
            raise CommandError(f"{path} cannot be read: {error}") from error
    return documents


def _write(given: dict[str, Any], documents: list[dict[str, Any]]) -> None:
    """Writes the files, each whole or not at all, and prints the tables."""
    from grouped_conv_jax.benchmarks import report

    if "json" in given:
        # First, since nothing else is lost for good.
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
