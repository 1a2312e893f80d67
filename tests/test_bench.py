"""Measuring: what is checked, what is recorded and in which order. No test asserts a time."""

import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest

from grouped_conv_jax.benchmarks import (
    contenders,
    machine,
    reference,
    timing,
)
from grouped_conv_jax.benchmarks.cases import Case
from grouped_conv_jax.benchmarks.contenders import Contender
from grouped_conv_jax.benchmarks.harness import Harness, Settings, tasks
from grouped_conv_jax.benchmarks.pytorch import Torch
from grouped_conv_jax.benchmarks.timing import Ready
from grouped_conv_jax.operation._description import Role

ROOFLINE = {"copy": [[1000, 1e9], [100_000, 3e9]], "flops": 1e9}
QUICK = Settings(rounds=1, seconds=0.001)
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
            # The peak is 1 GFLOP/s.
            assert math.isclose(record["peak_share"], rate, rel_tol=2e-3)
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
        exact = reference.compute(role, *operands, case.convolution)
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


class Clock:
    """Time that passes only in calls, and what the system counts meanwhile."""

    def __init__(self, monkeypatch):
        self.now, self.faults, self.order = 0.0, 0, []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(timing.time, "sleep", lambda s: self.order.append(f"pause {s}"))
        monkeypatch.setattr(timing, "_usage", lambda: (self.faults, self.now / 4))

    def ready(self, name, seconds, queued=False):
        """A contender whose calls take the given times, the last one again and again."""
        times = itertools.chain(seconds, itertools.repeat(seconds[-1]))

        def run():
            self.order.append(name)
            self.now += next(times)
            self.faults += 3

        def wait(_):
            self.order.append("wait")

        return Ready({}, Contender(name, "", run, wait, queued, {}), seconds[-1])

    def calls(self):
        return [word for word in self.order if word != "wait"]


def test_contenders_alternate_in_blocks_of_calls_after_a_pause_and_a_warm_up(monkeypatch):
    clock = Clock(monkeypatch)
    contestants = [clock.ready("fast", [0.125]), clock.ready("slow", [0.25])]
    timing.take_blocks(contestants, rounds=3, seconds=0.5)
    fast, slow = ["pause 0.02", *["fast"] * (2 + 4)], ["pause 0.02", *["slow"] * (2 + 2)]
    assert clock.calls() == (fast + slow) * 3


def test_long_calls_are_not_warmed_up_and_alone_in_their_block(monkeypatch):
    clock = Clock(monkeypatch)
    timing.take_blocks([clock.ready("long", [4.0])], rounds=2, seconds=0.5)
    assert clock.calls() == ["pause 0.02", "long"] * 2


def test_lower_quartile_of_all_calls_counts(monkeypatch):
    clock = Clock(monkeypatch)
    # Each block begins with two calls that are not timed.
    times = [9.0, 9.0, 1.0, 3.0, 4.0, 9.0, 9.0, 2.0, 2.0, 4.0]
    one = clock.ready("one", times)._replace(seconds=0.5)
    timing.take_blocks([one], rounds=2, seconds=8.0)
    assert one.record["milliseconds"] == 1e3 * np.quantile([1, 3, 4, 2, 2, 4], 0.25)
    assert one.record["blocks"] == [2000.0, 2000.0]


def test_page_faults_and_system_time_are_those_of_a_timed_call(monkeypatch):
    clock = Clock(monkeypatch)
    one = clock.ready("one", [0.25])
    timing.take_blocks([one], rounds=2, seconds=1.0)
    assert one.record["page_faults"] == 3
    assert one.record["system_milliseconds"] == 1e3 * 0.25 / 4


def test_page_faults_are_those_that_the_system_counts():
    def run():
        np.ones(64 * 2**20, np.uint8)

    ready = Ready({}, Contender("", "", run, lambda _: None, False, {}), 0.01)
    timing.take_blocks([ready], rounds=1, seconds=0.05)
    pytest.importorskip("resource", reason="Windows does not count page faults")
    # 64 MB are 16384 small pages, or 32 huge ones.
    assert 16 <= ready.record["page_faults"] <= 20_000
    assert ready.record["system_milliseconds"] >= 0


def test_figures_that_the_system_does_not_give_are_missing(monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(timing, "_usage", lambda: None)
    one = clock.ready("one", [0.25])
    timing.take_blocks([one], rounds=1, seconds=0.25)
    assert one.record["milliseconds"] == 250
    assert (one.record["page_faults"], one.record["system_milliseconds"]) == (None, None)


def test_contenders_are_called_twice_before_they_are_timed_unless_they_take_very_long(monkeypatch):
    for seconds, calls in ((0.01, 2), (8.0, 2), (60.0, 1)):
        clock = iter([0.0, seconds, 100.0, 100.0 + seconds / 2])
        monkeypatch.setattr(timing.time, "perf_counter", lambda clock=clock: next(clock))
        made = []
        contender = Contender("", "", lambda made=made: made.append(0), lambda _: None, False, {})
        _, estimate = timing.first_calls(contender)
        assert len(made) == calls
        assert estimate == pytest.approx(seconds / calls)


def test_calls_are_queued_where_the_device_orders_them(monkeypatch):
    clock = Clock(monkeypatch)
    one = clock.ready("one", [0.0078125], queued=True)
    timing.take_blocks([one], rounds=1, seconds=0.03)
    warm_up = ["one", "wait"] * 2
    assert clock.order == ["pause 0.02", *warm_up, *["one", "one", "wait"] * 2]
    assert one.record["milliseconds"] == 7.812
    assert one.record["page_faults"] == 3


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
    assert description["pages"] in ("huge", "small", None)
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
