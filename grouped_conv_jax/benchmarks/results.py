"""Storage of measurements, and the speedups that follow from them."""

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

FORMAT = 1
_KEYS = ("versions", "machine", "settings", "roofline", "measurements", "networks")
# The fields in which runs must agree to be combined.
_SAME_MACHINE = (
    *("platform", "device", "estimated", "processor", "cores"),
    *("glibc_tunables", "allocator", "pages"),
)
_SAME_SETTINGS = ("dtype", "implementation")
# The fields that are combined by their median.
_FIGURES = (
    *("milliseconds", "one_thread_milliseconds", "page_faults", "system_milliseconds"),
    *("gflops", "gigabytes_per_second", "peak_share", "roofline_share"),
)


class UnreadableError(ValueError):
    """A file was not written by :func:`to_json`, or files cannot be combined."""


@dataclasses.dataclass(frozen=True)
class Row:
    """The records of one measurement, by contender.

    Attributes:
        name: name of the convolution or network.
        suites: the suites that contain the convolution.
        role: the role, or Flax's API for a network.
        records: the record of each successful contender; for PyTorch, of the faster layout.
        pages: ``huge`` or ``small`` for a network, if known.
    """

    name: str
    suites: tuple[str, ...]
    role: str
    records: dict[str, dict[str, Any]]
    pages: str | None = None

    def speedup(self, against: str) -> float | None:
        """Returns the measured or estimated speedup of this package over a contender."""
        if "ours" not in self.records or against not in self.records:
            return None
        return float(cost(self.records[against]) / cost(self.records["ours"]))


def cost(record: dict[str, Any]) -> float:
    """Returns the milliseconds of a record, or the compiler's estimated cycles."""
    return float(record["milliseconds" if "milliseconds" in record else "estimated_cycles"])


def to_json(document: dict[str, Any]) -> str:
    """Serializes a document, with one record per line."""
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
    """Inverts :func:`to_json`.

    Raises:
        UnreadableError: ``text`` was not written by :func:`to_json`.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise UnreadableError(f"it is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UnreadableError(f"it is not what `bench --json` writes in format {FORMAT}")
    missing = [key for key in _KEYS if key not in document]
    if missing:
        raise UnreadableError(f"it lacks {', '.join(missing)}")
    return document


def combine(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Combines runs; the figures of a repeated measurement become their median.

    Raises:
        UnreadableError: the runs have different machines, versions or settings.
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
    """Returns a key that identifies the measurement of a record across runs."""
    names = ("case", "network", "role", "dtype", "contender", "variant", "batch", "image_size")
    return tuple(record.get(name) for name in (*names, "pages"))


def _median_record(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Combines records by the median of each figure; a failure in one run prevails."""
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
    """Returns one row per role of each convolution."""
    return _rows((r["case"], tuple(r["suites"]), r["role"], r) for r in document["measurements"])


def network_rows(document: dict[str, Any]) -> list[Row]:
    """Returns one row per network, Flax API and kind of pages."""
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
    """Returns the speedups of the rows that have one."""
    return [ratio for row in rows if (ratio := row.speedup(against)) is not None]


def geometric_mean(ratios: Sequence[float]) -> float:
    """Returns the geometric mean of ratios."""
    return math.exp(statistics.fmean(map(math.log, ratios)))


def worst(rows: Iterable[Row], against: str) -> Row:
    """Returns the row with the smallest speedup."""
    measured = [row for row in rows if row.speedup(against) is not None]
    return min(measured, key=lambda row: row.speedup(against) or 0.0)


def rivals(document: dict[str, Any]) -> list[str]:
    """Returns the contenders besides this package, in order."""
    return list(document["settings"]["against"])


def failures(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the records of failed contenders."""
    return [
        record
        for part in ("measurements", "networks")
        for record in document[part]
        if "failure" in record
    ]
