"""Shows measurements as tables: on the terminal case by case, for the README in summary."""

from collections.abc import Callable, Sequence
from typing import Any

from grouped_conv_jax.benchmarks import results
from grouped_conv_jax.benchmarks.results import Row
from grouped_conv_jax.benchmarks.suites import SUITES

NAMES = {"lax": "lax", "torch": "PyTorch"}
_NETWORK_NAMES = {"mobilenet-v2": "MobileNetV2", "resnext-50": "ResNeXt-50"}
_API_NAMES = {"linen": "Linen", "nnx": "NNX"}
_NOTHING = "-"
TIMES = "\u00d7"

Table = list[list[str]]


def to_text(document: dict[str, Any]) -> str:
    """The conditions, every measurement, then the summary, then what failed."""
    parts = [_conditions(document, 1)]
    if document["machine"].get("estimated"):
        parts.append(_align(_estimate_table(document)))
    elif document["measurements"]:
        parts.append(_align(_case_table(document)))
    if document["networks"] and not document["machine"].get("estimated"):
        parts.append(_align(_network_table(document)))
    if results.rivals(document):
        parts.append(_align(_summary_table(document, [])))
    failed = results.failures(document)
    if failed:
        parts.append("\n".join(["failed:", *map(_describe_failure, failed)]))
    return "\n\n".join(parts)


def to_markdown(documents: Sequence[dict[str, Any]]) -> str:
    """The summary and the suites, for the README.

    Args:
        documents: one or more runs; the figures are those of the median, and each run's own stand
            beside them.

    Raises:
        results.UnreadableError: the runs do not belong together.
    """
    combined = results.combine(documents)
    runs = documents if len(documents) > 1 else []
    parts = [_conditions(combined, len(documents))]
    parts.append(_markdown(_summary_table(combined, runs)))
    if results.case_rows(combined):
        parts.append(_markdown(_suite_table(combined)))
    return "\n\n".join(parts) + "\n"


def _conditions(document: dict[str, Any], runs: int) -> str:
    machine, versions = document["machine"], document["versions"]
    where = machine["device"]
    if machine.get("estimated"):
        compiler = f"JAX {versions['jax']}, libtpu {versions['libtpu']}"
        what = f"{where}; {document['settings']['dtype']}; {compiler}"
        return f"Estimated by the compiler, not measured: cycles of {what}."
    if machine["platform"] == "cpu":
        where += f", {machine['cores']} core{'s' if machine['cores'] > 1 else ''}"
    if machine.get("allocator"):
        where += f", {machine['allocator']}"
    if machine.get("pages"):
        where += f", {machine['pages']} pages"
    if machine.get("glibc_tunables"):
        where += f", GLIBC_TUNABLES={machine['glibc_tunables']}"
    software = [f"JAX {versions['jax']}"]
    if "torch" in results.rivals(document):
        software.append(f"PyTorch {versions['torch']}")
    count = "One run" if runs == 1 else f"Medians of {runs} separate runs"
    return f"{count} on {where}; {document['settings']['dtype']}; {', '.join(software)}."


def _summary_table(document: dict[str, Any], runs: Sequence[dict[str, Any]]) -> Table:
    """Geometric means by role, the worst case, and the networks, against each rival."""
    rivals = results.rivals(document)
    rows = results.case_rows(document)
    table = [["", *(f"against {NAMES[rival]}" for rival in rivals)]]
    for role in _in_order(row.role for row in rows):
        name = f"{words(role)}, geometric mean of {sum(row.role == role for row in rows)}"
        table.append([name, *(_over_runs(document, runs, _mean, role, r) for r in rivals)])
    if rows:
        table.append(["worst single case", *(_worst(rows, rival) for rival in rivals)])
    for row in results.network_rows(document):
        name = f"training step, {_NETWORK_NAMES[row.name]} in {_API_NAMES[row.role]}"
        if row.pages:
            name += f", {row.pages} pages"
        which = row.name, row.role, row.pages
        table.append([name, *(_over_runs(document, runs, _step, which, r) for r in rivals)])
    return table


def _over_runs(
    document: dict[str, Any],
    runs: Sequence[dict[str, Any]],
    figure: Callable[[dict[str, Any], Any, str], float | None],
    *which: Any,
) -> str:
    """A figure of all runs together, and of each."""
    together = times(figure(document, *which))
    each = ", ".join(times(figure(run, *which)) for run in runs)
    return f"{together} ({each})" if runs else together


def _step(document: dict[str, Any], which: tuple[str, str, str | None], rival: str) -> float | None:
    """How many times faster a training step is: of a network, in one variant, with some pages."""
    rows = {(row.name, row.role, row.pages): row for row in results.network_rows(document)}
    return rows[which].speedup(rival) if which in rows else None


def _worst(rows: Sequence[Row], rival: str) -> str:
    if not results.speedups(rows, rival):
        return _NOTHING
    row = results.worst(rows, rival)
    return f"{times(row.speedup(rival))} ({row.name}, {words(row.role)})"


def _mean(document: dict[str, Any], role: str, rival: str) -> float | None:
    """How many times faster a role is, over all convolutions."""
    rows = [row for row in results.case_rows(document) if row.role == role]
    ratios = results.speedups(rows, rival)
    return results.geometric_mean(ratios) if ratios else None


def _suite_table(document: dict[str, Any]) -> Table:
    """A suite, or a case in none, a row: the geometric mean of each role, against each rival."""
    rows = results.case_rows(document)
    rivals = results.rivals(document)
    roles = _in_order(row.role for row in rows)
    columns = [(role, rival) for role in roles for rival in rivals]
    header = ["suite", "cases", *(f"{words(role)} / {NAMES[rival]}" for role, rival in columns)]
    table = [header]
    for name, members in groups(rows).items():
        cells = []
        for role, rival in columns:
            ratios = results.speedups([row for row in members if row.role == role], rival)
            cells.append(times(results.geometric_mean(ratios) if ratios else None))
        table.append([name, str(len({row.name for row in members})), *cells])
    return table


def groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each suite, in order, then those of each case that is in none, by its name."""
    found = {suite: [row for row in rows if suite in row.suites] for suite in SUITES}
    for row in rows:
        if not row.suites:
            found.setdefault(row.name, []).append(row)
    return {name: members for name, members in found.items() if members}


def _case_table(document: dict[str, Any]) -> Table:
    rows, rivals = results.case_rows(document), results.rivals(document)
    threads = _has_one_thread(rows)
    table = [
        [
            *("convolution", "role"),
            *_time_headers(rivals, threads),
            *("GFLOP/s", "of peak", "GB/s", "roofline", "faults", "system ms", "by"),
        ]
    ]
    for row in rows:
        own = row.records.get("ours", {})
        table.append(
            [
                *(row.name, words(row.role)),
                *_time_cells(row, rivals, threads),
                _number(own, "gflops"),
                _share(own, "peak_share"),
                _number(own, "gigabytes_per_second"),
                _share(own, "roofline_share"),
                _number(own, "page_faults"),
                _number(own, "system_milliseconds"),
                own.get("variant", _NOTHING),
            ]
        )
    return table


def _estimate_table(document: dict[str, Any]) -> Table:
    """What the compiler says of each convolution and network: cycles, and what else it costs."""
    names = ("ours", *results.rivals(document))
    figures = {
        "cycles": "estimated_cycles",
        "bytes": "bytes",
        "flops": "flops",
        "temporary": "temporary_bytes",
        "compile s": "compile_seconds",
    }
    columns = [(name, label) for label in figures for name in names]
    header = ["program", "role", *(f"{_name(name)} {label}" for name, label in columns)]
    table = [[*header, *(f"x {_name(rival)}" for rival in names[1:]), "by"]]
    for row in (*results.case_rows(document), *results.network_rows(document)):
        records = {name: row.records.get(name, {}) for name in names}
        cells = [_number(records[name], figures[label]) for name, label in columns]
        ratios = [times(row.speedup(rival)) for rival in names[1:]]
        variant = records["ours"].get("variant", _NOTHING)
        table.append([row.name, words(row.role), *cells, *ratios, variant])
    return table


def _network_table(document: dict[str, Any]) -> Table:
    rows, rivals = results.network_rows(document), results.rivals(document)
    threads, names = _has_one_thread(rows), ("ours", *rivals)
    costs = [f"{_name(name)} {cost}" for name in names for cost in ("faults", "system ms")]
    table = [["training step", "by", "pages", *_time_headers(rivals, threads), *costs]]
    for row in rows:
        records = [row.records.get(name, {}) for name in names]
        table.append(
            [
                *(row.name, row.role, row.pages or _NOTHING),
                *_time_cells(row, rivals, threads),
                *(
                    _number(record, cost)
                    for record in records
                    for cost in ("page_faults", "system_milliseconds")
                ),
            ]
        )
    return table


def _time_headers(rivals: Sequence[str], threads: bool) -> list[str]:
    return [
        *(f"{_name(name)} ms" for name in ("ours", *rivals)),
        *(f"x {_name(rival)}" for rival in rivals),
        *(["1 thread ms", "x 1 thread"] if threads else []),
    ]


def _time_cells(row: Row, rivals: Sequence[str], threads: bool) -> list[str]:
    cells = [_number(row.records.get(name, {}), "milliseconds") for name in ("ours", *rivals)]
    cells += [times(row.speedup(rival)) for rival in rivals]
    if threads:
        own = row.records.get("ours", {})
        alone = own.get("one_thread_milliseconds")
        cells.append(_number(own, "one_thread_milliseconds"))
        cells.append(times(alone and alone / own["milliseconds"]))
    return cells


def _has_one_thread(rows: Sequence[Row]) -> bool:
    return any("one_thread_milliseconds" in row.records.get("ours", {}) for row in rows)


def _name(contender: str) -> str:
    return NAMES.get(contender, contender)


def describe(records: Sequence[dict[str, Any]]) -> str:
    """One line about one measurement: how long each contender took."""
    parts = []
    for record in records:
        name = record["contender"]
        label = f"{name} {record['variant']}" if name == "torch" or "network" in record else name
        unit, figure = (
            ("cycles", "estimated_cycles")
            if "estimated_cycles" in record
            else ("ms", "milliseconds")
        )
        took = record.get("failure") or f"{_number(record, figure)} {unit}"
        parts.append(f"{label} {took}")
    first = records[0]
    subject = (
        f"{first['case']}, {words(first['role'])}"
        if "case" in first
        else f"{first['network']}, training step"
    )
    return f"{subject}: {', '.join(parts)}"


def _describe_failure(record: dict[str, Any]) -> str:
    subject = (
        f"{record['case']}, {words(record['role'])}" if "case" in record else record["network"]
    )
    return f"  {record['contender']} {record['variant'] or ''} at {subject}: {record['failure']}"


def _in_order(names: Any) -> list[str]:
    return list(dict.fromkeys(names))


def words(name: str) -> str:
    """A role or the like, as one reads it."""
    return name.lower().replace("_", " ")


def times(ratio: float | None) -> str:
    """A ratio, as one reads it."""
    if ratio is None:
        return _NOTHING
    return (f"{ratio:.2f}" if 0.1 <= ratio < 10 else _digits(ratio)) + TIMES


def _number(record: dict[str, Any], figure: str) -> str:
    number = record.get(figure)
    return _NOTHING if number is None else _digits(number)


def _share(record: dict[str, Any], figure: str) -> str:
    share = record.get(figure)
    return _NOTHING if share is None else f"{share:.0%}"


def _digits(number: float) -> str:
    """Three digits, without an exponent."""
    return f"{number:.0f}" if number >= 100 else f"{number:#.3g}".rstrip(".")


def _align(table: Table) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        first, *rest = (
            cell.rjust(width) if _is_number(cell) else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        )
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)


def _is_number(cell: str) -> bool:
    return cell == _NOTHING or (cell[:1].isdigit() and not cell.strip(f"{TIMES}%.0123456789"))


def _markdown(table: Table) -> str:
    header, *rows = table
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
