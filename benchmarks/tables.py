"""The documentation's tables of figures, made of the measurements in this folder.

A page says ``<!-- table: NAME -->`` where the table ``NAME`` of ``TABLES`` belongs.
"""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grouped_conv_jax.benchmarks import report, results
from grouped_conv_jax.benchmarks.results import Row
from grouped_conv_jax.benchmarks.tables import format_ratio, format_role

FOLDER = Path(__file__).parent
_MARK = re.compile(r"<!-- table: (\S+) -->")
_NETWORKS = {"mobilenet-v2": "MobileNetV2", "resnext-50": "ResNeXt-50"}
_APIS = {"linen": "Linen", "nnx": "NNX"}
# Estimates of single convolutions: the file, the case, and how the page names it.
_ESTIMATES = (
    ("v5e-bfloat16-8", "8x56x56x128->128 k3 g32", "8x56x56x128, 3x3, 32 groups"),
    ("v5e-bfloat16-8", "8x14x14x512->512 k3 g32", "8x14x14x512, 3x3, 32 groups"),
    ("v5e-rows", "8x28x28x128->128 k3 g64", "8x28x28x128, 3x3, 64 groups"),
    ("v5e-rows", "8x28x28x96->192 k3 g96", "8x28x28x96, 3x3, 96 groups of 2 filters"),
    ("v5e-bfloat16-8", "8x56x56x256->256 k3 s2 g32", "8x56x56x256, 3x3, stride 2, 32 groups"),
    ("v5e-bfloat16-8", "8x28x28x240->60 k1 g3", "8x28x28x240 to 60, 1x1, 3 groups"),
    ("v5e-blocks-128", "128x14x14x512->512 k3 g32", "128x14x14x512, 3x3, 32 groups"),
    ("v5e-blocks-128", "128x56x56x128->128 k3 g32", "128x56x56x128, 3x3, 32 groups"),
)


def fill(markdown: str) -> str:
    """Puts the tables into a page in the places of their marks.

    Raises:
        KeyError: there is no table of that name.
    """
    return _MARK.sub(lambda mark: TABLES[mark.group(1)](), markdown)


def read(name: str) -> dict[str, Any]:
    """A file of measurements, by its name without ``.json``."""
    return results.from_json((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def _table(header: list[str], rows: list[list[str]], left: int = 1) -> str:
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def cpu() -> str:
    """Where and with what the suites were measured, their summary, and each suite."""
    return report.to_markdown([read("run-1")])


def cpu_cases() -> str:
    """Every convolution of the suites in every role."""
    return _cases("run-1")


def cpu_reported() -> str:
    """The convolutions of sequences, videos and issue reports, in every role."""
    return _cases("run-users")


def _cases(file: str) -> str:
    header = ["convolution", "role", "this package", "PyTorch", "lax", "PyTorch / ours"]
    header += ["lax / ours", "GFLOP/s", "GB/s"]
    return _table(header, [_case(row) for row in results.case_rows(read(file))], 2)


def _case(row: Row) -> list[str]:
    own = row.records["ours"]
    times = [f"{row.records[name]['milliseconds']:.3g} ms" for name in ("ours", "torch", "lax")]
    ratios = [format_ratio(row.speedup(rival)) for rival in ("torch", "lax")]
    rates = [f"{own['gflops']:.0f}", f"{own['gigabytes_per_second']:.0f}"]
    return [row.name, format_role(row.role), *times, *ratios, *rates]


def networks() -> str:
    """Training steps with huge pages and with small ones."""
    header = ["network", "in", "pages", "this package", "page faults", "in the system", "PyTorch"]
    rows = results.network_rows(read("networks"))
    return _table(header, [_step(row) for row in sorted(rows, key=lambda row: row.name)], 3)


def _step(row: Row) -> list[str]:
    own, rival = row.records["ours"], row.records["torch"]
    return [
        *(_NETWORKS[row.name], _APIS[row.role], str(row.pages)),
        f"{own['milliseconds']:.0f} ms",
        f"{own['page_faults']:,.0f}",
        f"{own['system_milliseconds']:.0f} ms",
        f"{rival['milliseconds']:.0f} ms",
    ]


def tpu_cases() -> str:
    """Estimates of single convolutions: lax, this package, and the ratio."""
    header = ["convolution", *map(format_role, _roles())]
    return _table(header, [_estimate(*entry) for entry in _ESTIMATES])


def _roles() -> tuple[str, ...]:
    return "forward", "input_gradient", "filter_gradient"


def _estimate(file: str, case: str, name: str) -> list[str]:
    rows = {row.role: row for row in results.case_rows(read(file)) if row.name == case}
    return [name, *(_cycles(rows[role]) for role in _roles())]


def _cycles(row: Row) -> str:
    """The thousands of cycles of lax, of what is chosen instead, and their ratio."""
    ours, lax = row.records["ours"], row.records["lax"]
    if ours["variant"] == "lax":
        return f"{results.cost(lax) / 1000:,.0f}"
    thousands = " / ".join(f"{results.cost(record) / 1000:,.0f}" for record in (lax, ours))
    return f"{thousands} = {results.cost(lax) / results.cost(ours):.1f}"


def tpu_suites() -> str:
    """Geometric means over the suites, by dtype and batch."""
    rows = []
    for dtype in ("bfloat16", "float32"):
        for batch in (8, 32):
            cases = results.case_rows(read(f"v5e-{dtype}-{batch}"))
            means = [
                results.geometric_mean(
                    results.speedups([row for row in cases if row.role == role], "lax")
                )
                for role in _roles()
            ]
            worst = results.worst(cases, "lax").speedup("lax")
            rows.append([dtype, str(batch), *map(format_ratio, (*means, worst))])
    header = ["dtype", "batch", *map(format_role, _roles()), "worst single case"]
    return _table(header, rows, 2)


def tpu_networks() -> str:
    """Estimates of training steps."""
    header = ["network", "this package", "lax", "ratio"]
    rows = []
    for row in results.network_rows(read("v5e-networks")):
        costs = [results.cost(row.records[name]) / 1e6 for name in ("ours", "lax")]
        cycles = [f"{cost:.1f} million cycles" for cost in costs]
        rows.append([_NETWORKS[row.name], *cycles, format_ratio(row.speedup("lax"))])
    return _table(header, rows)


TABLES: dict[str, Callable[[], str]] = {
    table.__name__.replace("_", "-"): functools.cache(table)
    for table in (cpu, cpu_cases, cpu_reported, networks, tpu_cases, tpu_suites, tpu_networks)
}
"""By the names that pages use."""
