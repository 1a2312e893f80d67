"""The choice for TPUs follows from the estimates that are kept in ``benchmarks``."""

from pathlib import Path

import pytest

from grouped_conv_jax.benchmarks import results
from grouped_conv_jax.benchmarks.contenders import chosen
from grouped_conv_jax.benchmarks.suites import SUITES, collect
from grouped_conv_jax.operation._description import Role

FILES = sorted((Path(__file__).parents[1] / "benchmarks").glob("v5e-*float*.json"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def document(request):
    return results.from_json(request.param.read_text())


def test_there_are_estimates_for_both_dtypes_and_batches():
    assert [path.stem for path in FILES] == [
        f"v5e-{dtype}-{batch}" for dtype in ("bfloat16", "float32") for batch in (32, 8)
    ]


def test_what_is_chosen_is_what_was_estimated(document):
    batch = document["settings"]["batch"]
    cases = {str(case): case for case in collect(list(SUITES), batch)}
    for record in document["measurements"]:
        if record["contender"] == "ours":
            role = Role[record["role"].upper()]
            choice = chosen(cases[record["case"]], role, record["dtype"], "tpu", None)
            assert choice == (record["variant"], record["reason"])


def test_no_role_is_estimated_to_take_longer_than_with_lax(document):
    rows = results.case_rows(document)
    ratios = results.speedups(rows, "lax")
    assert len(ratios) == len(rows) == 105
    assert min(ratios) >= 1
    assert results.geometric_mean(ratios) > 1.3
