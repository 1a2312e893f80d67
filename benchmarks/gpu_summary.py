"""Summary of the results of :mod:`gpu`: speedups, a proposed choice for CUDA, and failures."""

import json
from pathlib import Path

from gpu_cases import LAYOUT, NAMES, PORTABLE, SMALLEST, Record, Rows

from grouped_conv_jax.benchmarks.results import geometric_mean


def read_rows(path: Path) -> tuple[str, Rows, list[str]]:
    """Returns the device of the file's last line, its latest times, and its failures."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    rows: Rows = {}
    failures: list[str] = []
    floors: dict[str, Record] = {}
    for record in records:
        shape, role, dtype, name = (
            record.get(field, "") for field in ("shape", "role", "dtype", "implementation")
        )
        if record["device"] != records[-1]["device"]:
            continue
        if "failure" in record:
            words = (record["kind"], shape, role, dtype, name, record["failure"])
            failures.append(" ".join(filter(None, words)))
        elif "microseconds" in record:
            small = shape.endswith(str(SMALLEST)[1:])
            (floors if small else rows.setdefault((shape, role, dtype), {}))[name] = record
    for row in rows.values():
        for name, one in row.items():
            floor = floors.get(LAYOUT if name == LAYOUT else "lax", {}).get("microseconds", 0.0)
            one["host_bound"] = one["microseconds"] < 1.5 * floor
    return records[-1]["device"], rows, failures


def speedups(rows: Rows, name: str, against: str) -> list[tuple[float, str]]:
    """Returns pairs (speedup, shape), slowest first, except where the host bounds both."""
    return sorted(
        (row[against]["microseconds"] / row[name]["microseconds"], shape)
        for (shape, *_), row in rows.items()
        if name in row and against in row
        if not (row[name]["host_bound"] and row[against]["host_bound"])
    )


def mean(found: list[tuple[float, str]]) -> str:
    """Formats the geometric mean and the number of speedups."""
    if not found:
        return "-"
    return f"{geometric_mean([ratio for ratio, _ in found]):.2f} of {len(found)}"


def table(rows: Rows) -> list[str]:
    """Tabulates speedups by role, dtype and implementation; lists shapes that beat lax."""
    lines = ["| role | dtype | implementation | / lax | / PyTorch | worst / lax |"]
    lines += ["| --- | --- | --- | ---: | ---: | ---: |"]
    faster = ["", "Faster than lax:", ""]
    for role, dtype in sorted({key[1:] for key in rows}):
        own = {key: row for key, row in rows.items() if key[1:] == (role, dtype)}
        for name in NAMES:
            found, rivals = speedups(own, name, "lax"), speedups(own, name, LAYOUT)
            worst = f"{found[0][0]:.2f}, {found[0][1]}" if found else "-"
            cells = (role, dtype, name, mean(found), mean(rivals), worst)
            lines.append(f"| {' | '.join(cells)} |")
            better = [f"{shape} ({ratio:.2f})" for ratio, shape in found[::-1] if ratio > 1]
            if name in PORTABLE and better:
                faster.append(f"- {name}, {role}, {dtype}: {'; '.join(better)}")
    return lines + faster


def proposal(rows: Rows) -> list[str]:
    """Tabulates a proposed implementation for each kind of case.

    Proposes the fastest implementation with a geometric mean of at least 1.1 over lax, unless it
    takes more than 1.2 times as long as lax in any case.
    """
    groups: dict[tuple[str, ...], Rows] = {}
    for key, row in rows.items():
        about = next(iter(row.values()))
        if "taps" in about:
            kind = [key[1]]
            for field, bounds in (("weights_per_tap", (1, 4, 16)), ("taps", (1, 4, 9, 25, 49))):
                above = f"over {bounds[-1]}"
                kind.append(next((f"up to {n}" for n in bounds if about[field] <= n), above))
            groups.setdefault(tuple(kind), {})[key] = row
    lines = ["| role | weights a tap | taps | taps / lax | blocks / lax | choice |"]
    lines += ["| --- | --- | --- | ---: | ---: | --- |"]
    for kinds, own in sorted(groups.items()):
        found = {name: speedups(own, name, "lax") for name in PORTABLE}
        means = {"lax": 1.1}
        for name, pairs in found.items():
            if pairs and pairs[0][0] > 1 / 1.2:
                means[name] = geometric_mean([ratio for ratio, _ in pairs])
        cells = (*kinds, *map(mean, found.values()), max(means, key=means.__getitem__))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def summary(path: Path) -> str:
    """Returns speedups, the proposal and the failures in Markdown."""
    device, rows, failures = read_rows(path)
    title = f"## {device}: speedup over lax and PyTorch ({LAYOUT})"
    proposed = ["", "## Proposed choice for cuda", "", *proposal(rows)]
    failed = ["", f"## Failures: {len(failures)}", "", *(f"- {line}" for line in failures)]
    return "\n".join([title, "", *table(rows), *proposed, *failed, ""])
