"""Reports of measurements: every case as text for terminals, summaries in Markdown."""

from collections.abc import Callable, Sequence
from typing import Any

from grouped_conv_jax.benchmarks import results
from grouped_conv_jax.benchmarks.results import Row
from grouped_conv_jax.benchmarks.suites import SUITES
from grouped_conv_jax.benchmarks.tables import (
    NOTHING,
    Table,
    align,
    format_number,
    format_percentage,
    format_ratio,
    format_role,
    markdown,
)

NAMES = {"lax": "lax", "torch": "PyTorch"}
_NETWORK_NAMES = {"mobilenet-v2": "MobileNetV2", "resnext-50": "ResNeXt-50"}
_API_NAMES = {"linen": "Linen", "nnx": "NNX"}


def to_text(document: dict[str, Any]) -> str:
    """Returns the conditions, every measurement, the summary and the failures as text."""
    parts = [_conditions(document, 1)]
    if document["machine"].get("estimated"):
        parts.append(align(_estimate_table(document)))
    elif document["measurements"]:
        parts.append(align(_case_table(document)))
    if document["networks"] and not document["machine"].get("estimated"):
        parts.append(align(_network_table(document)))
    if results.rivals(document):
        parts.append(align(_summary_table(document, [])))
    failed = results.failures(document)
    if failed:
        parts.append("\n".join(["failed:", *map(_describe_failure, failed)]))
    return "\n\n".join(parts)


def to_markdown(documents: Sequence[dict[str, Any]]) -> str:
    """Returns the summary and a table of the suites in Markdown.

    Args:
        documents: one or more runs. The figures of several runs are medians, followed by those of
            each run.

    Raises:
        results.UnreadableError: the runs have different machines, versions or settings.
    """
    combined = results.combine(documents)
    runs = documents if len(documents) > 1 else []
    parts = [_conditions(combined, len(documents))]
    parts.append(markdown(_summary_table(combined, runs)))
    if results.case_rows(combined):
        parts.append(markdown(_suite_table(combined)))
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
    """Tabulates geometric means by role, the worst case and the networks, against each rival."""
    rivals = results.rivals(document)
    rows = results.case_rows(document)
    table = [["", *(f"against {NAMES[rival]}" for rival in rivals)]]
    for role in _in_order(row.role for row in rows):
        name = f"{format_role(role)}, geometric mean of {sum(row.role == role for row in rows)}"
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
    """Formats a figure of the combined runs, followed by that of each run."""
    together = format_ratio(figure(document, *which))
    each = ", ".join(format_ratio(figure(run, *which)) for run in runs)
    return f"{together} ({each})" if runs else together


def _step(document: dict[str, Any], which: tuple[str, str, str | None], rival: str) -> float | None:
    """Returns the speedup of a training step, selected by network, variant and pages."""
    rows = {(row.name, row.role, row.pages): row for row in results.network_rows(document)}
    return rows[which].speedup(rival) if which in rows else None


def _worst(rows: Sequence[Row], rival: str) -> str:
    if not results.speedups(rows, rival):
        return NOTHING
    row = results.worst(rows, rival)
    return f"{format_ratio(row.speedup(rival))} ({row.name}, {format_role(row.role)})"


def _mean(document: dict[str, Any], role: str, rival: str) -> float | None:
    """Returns the geometric mean of a role's speedups."""
    rows = [row for row in results.case_rows(document) if row.role == role]
    ratios = results.speedups(rows, rival)
    return results.geometric_mean(ratios) if ratios else None


def _suite_table(document: dict[str, Any]) -> Table:
    """Tabulates geometric means by suite, or by case outside all suites, role and rival."""
    rows = results.case_rows(document)
    rivals = results.rivals(document)
    roles = _in_order(row.role for row in rows)
    columns = [(role, rival) for role in roles for rival in rivals]
    header = [
        "suite",
        "cases",
        *(f"{format_role(role)} / {NAMES[rival]}" for role, rival in columns),
    ]
    table = [header]
    for name, members in groups(rows).items():
        cells = []
        for role, rival in columns:
            ratios = results.speedups([row for row in members if row.role == role], rival)
            cells.append(format_ratio(results.geometric_mean(ratios) if ratios else None))
        table.append([name, str(len({row.name for row in members})), *cells])
    return table


def groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Groups rows by suite, then those outside all suites by the name of the case."""
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
                *(row.name, format_role(row.role)),
                *_time_cells(row, rivals, threads),
                format_number(own, "gflops"),
                format_percentage(own, "peak_share"),
                format_number(own, "gigabytes_per_second"),
                format_percentage(own, "roofline_share"),
                format_number(own, "page_faults"),
                format_number(own, "system_milliseconds"),
                own.get("variant", NOTHING),
            ]
        )
    return table


def _estimate_table(document: dict[str, Any]) -> Table:
    """Tabulates the compiler's estimates for each convolution and network."""
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
        cells = [format_number(records[name], figures[label]) for name, label in columns]
        ratios = [format_ratio(row.speedup(rival)) for rival in names[1:]]
        variant = records["ours"].get("variant", NOTHING)
        table.append([row.name, format_role(row.role), *cells, *ratios, variant])
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
                *(row.name, row.role, row.pages or NOTHING),
                *_time_cells(row, rivals, threads),
                *(
                    format_number(record, cost)
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
    cells = [format_number(row.records.get(name, {}), "milliseconds") for name in ("ours", *rivals)]
    cells += [format_ratio(row.speedup(rival)) for rival in rivals]
    if threads:
        own = row.records.get("ours", {})
        alone = own.get("one_thread_milliseconds")
        cells.append(format_number(own, "one_thread_milliseconds"))
        cells.append(format_ratio(alone and alone / own["milliseconds"]))
    return cells


def _has_one_thread(rows: Sequence[Row]) -> bool:
    return any("one_thread_milliseconds" in row.records.get("ours", {}) for row in rows)


def _name(contender: str) -> str:
    return NAMES.get(contender, contender)


def describe(records: Sequence[dict[str, Any]]) -> str:
    """Returns one line with the time of each contender in one measurement."""
    parts = []
    for record in records:
        name = record["contender"]
        label = f"{name} {record['variant']}" if name == "torch" or "network" in record else name
        unit, figure = (
            ("cycles", "estimated_cycles")
            if "estimated_cycles" in record
            else ("ms", "milliseconds")
        )
        took = record.get("failure") or f"{format_number(record, figure)} {unit}"
        parts.append(f"{label} {took}")
    first = records[0]
    subject = (
        f"{first['case']}, {format_role(first['role'])}"
        if "case" in first
        else f"{first['network']}, training step"
    )
    return f"{subject}: {', '.join(parts)}"


def _describe_failure(record: dict[str, Any]) -> str:
    subject = (
        f"{record['case']}, {format_role(record['role'])}"
        if "case" in record
        else record["network"]
    )
    return f"  {record['contender']} {record['variant'] or ''} at {subject}: {record['failure']}"


def _in_order(names: Any) -> list[str]:
    return list(dict.fromkeys(names))
