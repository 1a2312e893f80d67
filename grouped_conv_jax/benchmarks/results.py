"""What is kept of measurements, and the ratios that follow from it."""

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

FORMAT = 1
_KEYS = ("versions", "machine", "settings", "roofline", "measurements", "networks")
# What two runs must have in common for their figures to be put together.
_SAME_MACHINE = (
    *("platform", "device", "estimated", "processor", "cores"),
    *("glibc_tunables", "allocator", "pages"),
)
_SAME_SETTINGS = ("dtype", "implementation")
# Of which several runs have a median.
_FIGURES = (
    *("milliseconds", "one_thread_milliseconds", "page_faults", "system_milliseconds"),
    *("gflops", "gigabytes_per_second", "peak_share", "roofline_share"),
)


class UnreadableError(ValueError):
    """A file does not hold what :func:`to_json` wrote, or files do not belong together."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One thing that was measured, and how long each contender took for it.

    Attributes:
        name: the convolution, or the network.
        suites: those that hold it.
        role: the role, or the variant of the network: Flax's interface, and what is added to it.
        records: the record of each contender that did it, in PyTorch's case of the faster layout.
        pages: ``huge`` or ``small`` for a network that was measured with such pages.
    """

    name: str
    suites: tuple[str, ...]
    role: str
    records: dict[str, dict[str, Any]]
    pages: str | None = None

    def speedup(self, against: str) -> float | None:
        """How many times faster than a contender this package is, or is estimated to be."""
        if "ours" not in self.records or against not in self.records:
            return None
        return float(cost(self.records[against]) / cost(self.records["ours"]))


def cost(record: dict[str, Any]) -> float:
    """How long it took; where that is not measured, how many cycles the compiler estimates."""
    return float(record["milliseconds" if "milliseconds" in record else "estimated_cycles"])


def to_json(document: dict[str, Any]) -> str:
    """Writes a document, a record a line."""
    lines = [f'  "format": {FORMAT}']
    for key in _KEYS:
        value = document[key]
        if isinstance(value, list) and value:
            records = ",\n".join(f"    {json.dumps(record)}" for record in value)
            lines.append(f'  "{key}": [\n{records}\n  ]')
        else:
            lines.append(f'  "{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def from_json(text: str) -> dict[str, Any]:
    """Reads what :func:`to_json` wrote.

    Raises:
        UnreadableError: it is something else.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise UnreadableError(f"it is no JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UnreadableError(f"it is not what `bench --json` writes in format {FORMAT}")
    missing = [key for key in _KEYS if key not in document]
    if missing:
        raise UnreadableError(f"it lacks {', '.join(missing)}")
    return document


def combine(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Puts runs together: of what several of them measured, the median.

    Raises:
        UnreadableError: they are of different machines, versions or settings.
    """
    first, *others = documents
    for other in others:
        for part, names in (
            ("versions", sorted(first["versions"].keys() | other["versions"].keys())),
            ("machine", _SAME_MACHINE),
            ("settings", _SAME_SETTINGS),
        ):
            for name in names:
                one, two = first[part].get(name), other[part].get(name)
                if one != two:
                    raise UnreadableError(f"the runs differ in {name}: {one} and {two}")
    combined = dict(first)
    for part in ("measurements", "networks"):
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for record in (record for document in documents for record in document[part]):
            groups.setdefault(identity(record), []).append(record)
        combined[part] = [_median_record(records) for records in groups.values()]
    return combined


def identity(record: dict[str, Any]) -> tuple[Any, ...]:
    """What two records of the same measurement have in common."""
    names = ("case", "network", "role", "dtype", "contender", "variant", "batch", "image_size")
    return tuple(record.get(name) for name in (*names, "pages"))


def _median_record(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The record with the median of every rate and time; a failure in one run is a failure."""
    failed = [record for record in records if "failure" in record]
    if failed or len(records) == 1:
        return (failed or records)[0]
    suites = sorted({suite for record in records for suite in record.get("suites", ())})
    medians = {
        name: statistics.median(record[name] for record in records)
        for name in _FIGURES
        if all(record.get(name) is not None for record in records)
    }
    return records[0] | medians | ({"suites": suites} if suites else {})


def case_rows(document: dict[str, Any]) -> list[Row]:
    """A row for each role of each convolution."""
    return _rows((r["case"], tuple(r["suites"]), r["role"], r) for r in document["measurements"])


def network_rows(document: dict[str, Any]) -> list[Row]:
    """A row for each network in each of Flax's interfaces, with each kind of pages."""
    records = document["networks"]
    rows = []
    for record in records:
        if record["contender"] == "ours":
            variant, name, pages = record["variant"], record["network"], record.get("pages")
            rivals = [
                r
                for r in records
                if (r["network"], r.get("pages")) == (name, pages)
                and (
                    r["contender"] == "torch"
                    or (r["contender"] == "lax" and r["variant"] == variant)
                )
            ]
            (row,) = _rows((name, (), variant, rival) for rival in (record, *rivals))
            rows.append(dataclasses.replace(row, pages=pages))
    return rows


def _rows(records: Iterable[tuple[str, tuple[str, ...], str, dict[str, Any]]]) -> list[Row]:
    rows: dict[tuple[str, str], Row] = {}
    for name, suites, role, record in records:
        row = rows.setdefault((name, role), Row(name, suites, role, {}))
        if "failure" in record:
            continue
        best = row.records.get(record["contender"])
        if best is None or cost(record) < cost(best):
            row.records[record["contender"]] = record
    return list(rows.values())


def speedups(rows: Iterable[Row], against: str) -> list[float]:
    """The speedups of the rows that have one."""
    return [ratio for row in rows if (ratio := row.speedup(against)) is not None]


def geometric_mean(ratios: Sequence[float]) -> float:
    """The mean of ratios."""
    return math.exp(statistics.fmean(map(math.log, ratios)))


def worst(rows: Iterable[Row], against: str) -> Row:
    """The row with the smallest speedup."""
    measured = [row for row in rows if row.speedup(against) is not None]
    return min(measured, key=lambda row: row.speedup(against) or 0.0)


def rivals(document: dict[str, Any]) -> list[str]:
    """The contenders besides this package, in order."""
    return list(document["settings"]["against"])


def failures(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of contenders that failed."""
    return [
        record
        for part in ("measurements", "networks")
        for record in document[part]
        if "failure" in record
    ]
