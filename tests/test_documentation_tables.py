"""The documentation's tables of figures: each mark in a page has a table, from a committed file."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import tables

    yield tables
    del sys.modules["tables"]


def records(name: str) -> list[dict]:
    document = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
    return document["measurements"] + document["networks"]


def cells(table: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


def test_every_table_is_on_one_page(tables) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)

    marked = re.findall(r"<!-- table: (\S+) -->", text)
    assert sorted(marked) == sorted(tables.TABLES)


def test_a_mark_is_replaced_by_its_table(tables) -> None:
    filled = tables.fill("Before.\n\n<!-- table: tpu-networks -->\n\nAfter.\n")

    assert filled == f"Before.\n\n{tables.tpu_networks()}\n\nAfter.\n"


def test_a_mark_without_a_table_is_refused(tables) -> None:
    with pytest.raises(KeyError, match="gpu"):
        tables.fill("<!-- table: gpu -->")


def test_every_measured_role_of_every_convolution_has_a_row(tables) -> None:
    own = [record for record in records("run-1") if record["contender"] == "ours"]
    rows = cells(tables.cpu_cases())

    assert [row[:2] for row in rows] == [
        [record["case"], record["role"].replace("_", " ")] for record in own
    ]
    assert [float(row[2].removesuffix(" ms")) for row in rows] == pytest.approx(
        [record["milliseconds"] for record in own], rel=5e-3
    )


def test_every_training_step_has_a_row_against_the_faster_layout(tables) -> None:
    found = records("networks")
    best = min(
        record["milliseconds"]
        for record in found
        if (record["network"], record.get("pages")) == ("resnext-50", "huge")
        and record["contender"] == "torch"
    )
    rows = cells(tables.networks())

    assert len(rows) == sum(record["contender"] == "ours" for record in found)
    assert {row[-1] for row in rows if row[0] == "ResNeXt-50" and row[2] == "huge"} == {
        f"{best:.0f} ms"
    }


def test_estimates_are_lax_s_cycles_over_those_of_blocks(tables) -> None:
    cycles = {
        record["contender"]: record["estimated_cycles"]
        for record in records("v5e-rows")
        if record["case"] == "8x28x28x128->128 k3 g64" and record["role"] == "forward"
    }
    (row,) = (row for row in cells(tables.tpu_cases()) if "64 groups" in row[0])

    lax, blocks, ratio = map(float, re.findall(r"[\d.]+", row[1].replace(",", "")))
    assert (lax, blocks) == (round(cycles["lax"] / 1000), round(cycles["ours"] / 1000))
    assert ratio == pytest.approx(cycles["lax"] / cycles["ours"], abs=0.05)
