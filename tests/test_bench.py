"""Measuring: what is checked, what is recorded and in which order. No test asserts a time."""

import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest

from grouped_conv_jax._convolution import Role
from grouped_conv_jax.benchmarks import (
    contenders,
    machine,
    reference,
    timing,
)
from grouped_conv_jax.benchmarks.contenders import Contender
from grouped_conv_jax.benchmarks.harness import Harness, Settings, tasks
from grouped_conv_jax.benchmarks.pytorch import Torch
from grouped_conv_jax.benchmarks.suites import Case
from grouped_conv_jax.benchmarks.timing import Ready

ROOFLINE = {"copy": [[1000, 1e9], [100_000, 3e9]], "flops": 1e9}
QUICK = Settings(repeats=1, budget=0.001)
CASE = Case(1, (6, 6), 4, 4, (3, 3), 2, (1, 1), (1, 1), ((1, 1), (1, 1)))


def measure(case, settings=QUICK, torch=None):
    """All roles of a case."""
    harness = Harness(settings, ROOFLINE, torch)
    return [harness.measure(task) for task in tasks({case: ["a-suite"]}, settings)]


@pytest.fixture(name="torch")
def _torch():
    pytest.importorskip("torch", reason="PyTorch is a contender only where it is installed")
    return Torch(1)


def test_harness_records_every_contender_in_every_role():
    roles = []
    for records in measure(CASE):
        ours, lax = records
        assert (ours["contender"], lax["contender"]) == ("ours", "lax")
        assert lax["variant"] == "lax"
        for record in records:
            assert "failure" not in record
            assert record["case"] == "1x6x6x4->4 k3 g2"
            assert record["suites"] == ["a-suite"]
            assert 0 <= record["error"] <= record["error_limit"] < 1e-4
            assert record["milliseconds"] > 0
            assert record["compile_seconds"] > 0
            assert record["temporary_bytes"] >= 0
            operations = 2 * 36 * 4 * 9 * 2
            rate = operations / record["milliseconds"] / 1e6
            assert math.isclose(record["gflops"], rate, rel_tol=2e-3)
        roles.append(records[0]["role"])
    assert roles == ["forward", "input_gradient", "filter_gradient"]


@pytest.mark.parametrize("dtype", contenders.DTYPES)
def test_harness_measures_in_the_dtype_asked_for(dtype):
    settings = dataclasses.replace(QUICK, dtype=dtype, roles=(Role.FORWARD,))
    (records,) = measure(CASE, settings)
    assert [record["dtype"] for record in records] == [dtype] * 2
    assert not any("failure" in record for record in records)


def test_harness_measures_the_implementation_asked_for():
    settings = dataclasses.replace(QUICK, implementation="blocks", against=())
    assert [records[0]["variant"] for records in measure(CASE, settings)] == ["blocks"] * 3


def test_harness_does_not_time_a_wrong_result(monkeypatch):
    convolve = contenders.convolve

    def off_by_one_percent(x, filters, convolution, implementation):
        y = convolve(x, filters, convolution, implementation)
        return y if implementation == "lax" else 1.01 * y

    monkeypatch.setattr(contenders, "convolve", off_by_one_percent)
    for ours, lax in measure(CASE):
        assert ours["failure"].startswith("wrong: error")
        assert "milliseconds" not in ours
        assert lax["milliseconds"] > 0


def test_harness_records_why_a_contender_failed(monkeypatch):
    def failing(*_):
        raise MemoryError("too large\nby far")

    monkeypatch.setattr(contenders, "convolve", failing)
    for record in itertools.chain(*measure(CASE)):
        assert record["failure"] == "MemoryError: too large"


@pytest.mark.parametrize(
    "case",
    [
        CASE,
        Case(2, (7, 6), 3, 6, (3, 2), 3, (2, 1), (1, 2), ((0, 1), (2, 1))),
        Case(2, (9,), 4, 4, (3,), 4, (2,), (1,), ((1, 1),)),
        Case(2, (9,), 4, 4, (3,), 2, (1,), (2,), ((1, 3),)),
    ],
    ids=str,
)
def test_torch_computes_every_role_in_both_layouts(case, torch):
    for role in Role:
        operands = contenders.random_operands(case, role, "float32")
        exact = reference.compute(case, role, *(array.astype(np.float64) for array in operands))
        for layout in Torch.layouts:
            contender = torch.prepare(case, role, operands, layout)
            result = contender.to_numpy(contender.run())
            np.testing.assert_allclose(result, exact, rtol=1e-4, atol=1e-5)


def test_harness_measures_torch_in_both_layouts(torch):
    settings = dataclasses.replace(QUICK, against=("torch",), roles=(Role.FORWARD,))
    (records,) = measure(CASE, settings, torch)
    assert [(record["contender"], record["variant"]) for record in records] == [
        ("ours", records[0]["variant"]),
        ("torch", "channels-first"),
        ("torch", "channels-last"),
    ]
    assert all(record["milliseconds"] > 0 for record in records)


def test_random_operands_are_random_and_the_same_every_time():
    first, second = (contenders.random_operands(CASE, Role.FORWARD, "float32") for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.unique(one).size == one.size


def test_turns_are_interleaved_and_within_the_budget():
    order = []

    def ready(name, seconds):
        contender = Contender(name, "", lambda: order.append(name), lambda _: None, False, {})
        return Ready({}, contender, seconds)

    # Seconds as estimated, so that each turn is one call.
    contestants = [ready("fast", 10.0), ready("slow", 40.0), ready("slowest", 1000.0)]
    timing.take_turns(contestants, repeats=8, budget=160.0)
    assert [order.count(name) for name in ("fast", "slow", "slowest")] == [8, 4, 2]
    assert order[:3] == ["fast", "slow", "slowest"]
    assert "".join(name[:1] if name == "fast" else "s" for name in order) == "fssffsffssffsf"
    for one in contestants:
        times = one.record["turns"]
        assert len(times) == order.count(one.contender.name)
        assert one.record["milliseconds"] == pytest.approx(np.median(times), rel=2e-3)


def test_contenders_are_called_twice_before_they_are_timed_unless_they_take_very_long(monkeypatch):
    for seconds, calls in ((0.01, 2), (8.0, 2), (60.0, 1)):
        clock = iter([0.0, seconds, 100.0, 100.0 + seconds / 2])
        monkeypatch.setattr(timing.time, "perf_counter", lambda clock=clock: next(clock))
        made = []
        contender = Contender("", "", lambda made=made: made.append(0), lambda _: None, False, {})
        _, estimate = timing.first_calls(contender)
        assert len(made) == calls
        assert estimate == pytest.approx(seconds / calls)


def test_calls_of_a_turn_are_queued_where_the_device_orders_them():
    waits = []

    def run(queued):
        waits.clear()
        contender = Contender("", "", lambda: 0, waits.append, queued, {})
        timing.take_turns([Ready({}, contender, 6.0 if queued else 0.004)], 1, 1.0)
        return len(waits)

    assert run(queued=True) == 1
    assert run(queued=False) > 5


def test_roofline_is_the_slower_of_copying_and_multiplying():
    assert machine.least_seconds(ROOFLINE, 1000, 1) == pytest.approx(1000 / 3e9)
    assert machine.least_seconds(ROOFLINE, 100_000, 1) == pytest.approx(100_000 / 3e9)
    assert machine.least_seconds(ROOFLINE, 1000, 5e6) == pytest.approx(5e-3)


def test_copying_rate_is_interpolated_between_sizes():
    falling = {"copy": [[1000, 3e9], [100_000, 1e9]], "flops": 1e12}
    assert machine.least_seconds(falling, 10_000, 1) == pytest.approx(10_000 / 2e9)


def test_roofline_is_measured(monkeypatch):
    monkeypatch.setattr(machine, "_COPY_SIZES", (1024, 4096))
    monkeypatch.setattr(machine, "_MATRIX_SIZE", 16)
    monkeypatch.setattr(machine, "_SECONDS", 0.001)
    roofline = machine.measure_roofline("bfloat16")
    assert [size for size, _ in roofline["copy"]] == [1024, 4096]
    assert all(rate > 0 for _, rate in roofline["copy"])
    assert roofline["flops"] > 0


def test_machine_and_versions_are_described():
    description = machine.describe()
    assert description["platform"] == jax.default_backend()
    assert description["cores"] >= 1
    assert description["device"]
    assert machine.versions()["jax"] == jax.__version__


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("fpu avx avx2 avx512f", "Some CPU with AVX-512"),
        ("fpu avx avx2", "Some CPU with AVX2"),
        ("fpu", "Some CPU"),
    ],
)
def test_processors_are_told_apart_by_their_vectors(tmp_path, flags, name):
    information = tmp_path / "cpuinfo"
    core = f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n\n"
    information.write_text(core + core)
    assert machine._processor(information) == name


def test_processors_without_a_description_have_a_name(tmp_path):
    assert machine._processor(tmp_path / "nothing")
