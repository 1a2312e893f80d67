"""Measurements: what is checked, recorded, computed from them and shown. No test asserts a time."""

import dataclasses
import io
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grouped_conv_jax._convolution import Role
from grouped_conv_jax.benchmarks import (
    contenders,
    machine,
    network_linen,
    network_nnx,
    network_torch,
    networks,
    plot,
    reference,
    report,
    results,
    timing,
    training,
)
from grouped_conv_jax.benchmarks.contenders import Contender
from grouped_conv_jax.benchmarks.harness import Harness, Settings, tasks
from grouped_conv_jax.benchmarks.networks import Block, Layer, Network
from grouped_conv_jax.benchmarks.progress import Progress
from grouped_conv_jax.benchmarks.pytorch import Torch
from grouped_conv_jax.benchmarks.suites import Case
from grouped_conv_jax.benchmarks.timing import Ready

ROOFLINE = {"copy": [[1000, 1e9], [100_000, 3e9]], "flops": 1e9}
QUICK = Settings(repeats=1, budget=0.001)
CASE = Case(1, (6, 6), 4, 4, (3, 3), 2, (1, 1), (1, 1), ((1, 1), (1, 1)))
TINY = Network(
    Layer(3, 4, 3, 2, activation="relu6"),
    True,
    (
        Block((Layer(4, 4, 3, groups=4),), "identity", "relu"),
        Block((Layer(4, 8, 3, 2, groups=2),), Layer(4, 8, 1, 2)),
    ),
    8,
)


def measure(case, settings=QUICK, torch=None):
    """All roles of a case."""
    harness = Harness(settings, ROOFLINE, torch)
    return [harness.measure(task) for task in tasks({case: ["a-suite"]}, settings)]


@pytest.fixture(name="torch")
def _torch():
    pytest.importorskip("torch", reason="PyTorch is a contender only where it is installed")
    return Torch(1)


# Measuring.


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
    contestants = [ready("fast", 1.0), ready("slow", 4.0), ready("slowest", 100.0)]
    timing.take_turns(contestants, repeats=8, budget=16.0)
    assert [order.count(name) for name in ("fast", "slow", "slowest")] == [8, 4, 2]
    assert order[:3] == ["fast", "slow", "slowest"]
    assert "".join(name[:1] if name == "fast" else "s" for name in order) == "fssffsffssffsf"
    for one in contestants:
        times = one.record["turns"]
        assert len(times) == order.count(one.contender.name)
        assert one.record["milliseconds"] == pytest.approx(np.median(times), rel=2e-3)


def test_calls_of_a_turn_are_queued_where_the_device_orders_them():
    waits = []

    def run(queued):
        waits.clear()
        contender = Contender("", "", lambda: 0, waits.append, queued, {})
        timing.take_turns([Ready({}, contender, 0.6 if queued else 0.004)], 1, 1.0)
        return len(waits)

    assert run(queued=True) == 1
    assert run(queued=False) > 5


# The machine.


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


# Networks.


def count_linen(network):
    model = network_linen.LinenNetwork(network, jax.lax.conv_general_dilated)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
    ("name", "parameters"),
    # As published for the models in torchvision.
    [("mobilenet-v2", 3_504_872), ("resnext-50", 25_028_904)],
)
def test_network_has_as_many_parameters_as_published(name, parameters):
    assert count_linen(networks.NETWORKS[name]) == parameters


def test_torch_builds_the_same_networks(torch):
    for network in (*networks.NETWORKS.values(), TINY):
        with torch.module.device("meta"):
            model = network_torch.build(torch.module, network)
        assert sum(p.numel() for p in model.parameters()) == count_linen(network)


@pytest.mark.parametrize("flax", [network_linen, network_nnx])
def test_training_step_lowers_the_loss_and_updates_statistics(flax):
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    labels = jnp.arange(4)
    step, start = flax.training_step(TINY, jax.lax.conv_general_dilated, images)
    step = jax.jit(step)
    state, losses = start, []
    for _ in range(5):
        state, loss = step(state, images, labels)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    for before, after in zip(*map(jax.tree.leaves, (start[1], state[1])), strict=True):
        assert not np.array_equal(before, after)


@pytest.fixture(name="tiny_network")
def _tiny_network(monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "tiny", TINY)
    return "tiny"


def test_training_steps_are_measured_with_and_without_this_package(tiny_network):
    records = training.measure(tiny_network, QUICK, None, 4, 16)
    assert [(record["contender"], record["variant"]) for record in records] == [
        ("ours", "linen"),
        ("lax", "linen"),
        ("ours", "nnx"),
        ("lax", "nnx"),
    ]
    for record in records:
        assert "failure" not in record
        assert record["milliseconds"] > 0
        assert (record["contender"] == "ours") == ("gradient_difference" in record)
    assert all(record.get("gradient_difference", 0) < 1e-3 for record in records)


def test_training_steps_are_measured_in_torch(tiny_network, torch, monkeypatch):
    monkeypatch.setattr(training, "_APIS", {})
    settings = dataclasses.replace(QUICK, against=("torch",))
    records = training.measure(tiny_network, settings, torch, 4, 16)
    assert [record["variant"] for record in records] == list(Torch.layouts)
    assert all(record["milliseconds"] > 0 for record in records)


def test_training_step_with_a_wrong_gradient_fails(tiny_network, monkeypatch):
    class Flax:
        @staticmethod
        def training_step(network, convolve, images):
            gradient = 1.0 if convolve is jax.lax.conv_general_dilated else 1.2
            return lambda state, *_: (((), (), state), 0.0), {"weights": jnp.full(3, gradient)}

    monkeypatch.setattr(training, "_APIS", {"linen": Flax})
    ours, lax = training.measure(tiny_network, QUICK, None, 1, 8)
    assert ours["failure"] == "wrong: the gradient differs from lax's by 2.0e-01 of its norm"
    assert "failure" not in lax


# Results.


def document(own=(1.0, 2.0), lax=(10.0, 80.0), torch=(0.5, 3.0), **settings):
    """Two cases in one role; PyTorch's other layout is slower by half."""
    records = []
    for name, ours, other, third in zip("ab", own, lax, torch, strict=True):
        common = {"case": name, "suites": ["alexnet"], "role": "forward", "dtype": "float32"}
        rates = {"gflops": 1.0, "gigabytes_per_second": 2.0, "roofline_share": 0.5}
        for contender, variant, time in (
            ("ours", "taps", ours),
            ("lax", "lax", other),
            ("torch", "channels-first", 1.5 * third),
            ("torch", "channels-last", third),
        ):
            record = {"contender": contender, "variant": variant, "milliseconds": time}
            records.append(common | record | rates)
    steps = [("ours", "nnx", 2.0), ("lax", "nnx", 9.0), ("torch", "channels-first", 1.0)]
    return {
        "versions": {"jax": "1.2.3", "torch": "4.5.6"},
        "machine": {"platform": "cpu", "device": "a CPU", "processor": "a CPU", "cores": 2},
        "settings": {"against": ["lax", "torch"], "dtype": "float32"} | settings,
        "roofline": {},
        "measurements": records,
        "networks": [
            {"network": "resnext-50", "contender": c, "variant": v, "milliseconds": t}
            for c, v, t in steps
        ],
    }


def test_speedup_is_over_the_better_layout_of_torch():
    first, second = results.case_rows(document())
    assert (first.speedup("lax"), second.speedup("lax")) == (10, 40)
    assert (first.speedup("torch"), second.speedup("torch")) == (0.5, 1.5)
    assert first.records["torch"]["variant"] == "channels-last"


def test_geometric_mean_and_worst_case():
    rows = results.case_rows(document())
    assert results.geometric_mean(results.speedups(rows, "lax")) == pytest.approx(20)
    assert results.worst(rows, "torch").name == "a"


def test_failed_contender_has_no_speedup():
    failed = document()
    record = failed["measurements"][1]
    del record["milliseconds"]
    record["failure"] = "MemoryError"
    first, second = results.case_rows(failed)
    assert first.speedup("lax") is None
    assert second.speedup("lax") == 40
    assert results.failures(failed) == [record]
    assert "lax lax at a, forward: MemoryError" in report.to_text(failed)


def test_runs_are_combined_by_their_medians():
    runs = [document(own=(1.0, 2.0)), document(own=(3.0, 2.0)), document(own=(4.0, 1.0))]
    first, second = results.case_rows(results.combine(runs))
    assert first.records["ours"]["milliseconds"] == 3
    assert second.records["ours"]["milliseconds"] == 2


def test_runs_of_different_settings_are_not_combined():
    message = "the runs differ in dtype: float32 and bfloat16"
    with pytest.raises(results.UnreadableError, match=message):
        results.combine([document(), document(dtype="bfloat16")])


def test_json_is_read_back_as_it_was_written():
    text = results.to_json(document())
    assert results.from_json(text) == {"format": results.FORMAT} | document()
    # A record a line, so that runs can be compared line by line.
    assert sum('"case"' in line for line in text.splitlines()) == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "not what `bench --json` writes"),
        ('{"format": 0}', "not what `bench --json` writes"),
        ('{"format": 1, "versions": {}}', "lacks machine"),
    ],
)
def test_other_files_are_refused(text, message):
    with pytest.raises(results.UnreadableError, match=message):
        results.from_json(text)


# What is shown.


def test_markdown_holds_the_summary_the_networks_and_the_suites():
    assert report.to_markdown([document()]).splitlines() == [
        "One run on a CPU, 2 cores; float32; JAX 1.2.3, PyTorch 4.5.6.",
        "",
        "|  | against lax | against PyTorch |",
        "| --- | ---: | ---: |",
        "| forward, geometric mean of 2 | 20.0\u00d7 | 0.87\u00d7 |",
        "| worst single case | 10.0\u00d7 (a, forward) | 0.50\u00d7 (a, forward) |",
        "| training step, ResNeXt-50 in NNX | 4.50\u00d7 | 0.50\u00d7 |",
        "",
        "| suite | cases | forward / lax | forward / PyTorch |",
        "| --- | ---: | ---: | ---: |",
        "| alexnet | 2 | 20.0\u00d7 | 0.87\u00d7 |",
    ]


def test_markdown_states_each_of_several_runs():
    text = report.to_markdown([document(own=(1.0, 2.0)), document(own=(4.0, 8.0))])
    assert text.startswith("Medians of 2 separate runs on a CPU")
    # Of the runs' times, not of their speedups: 10 and 80 over 2.5 and 5.
    assert "| forward, geometric mean of 2 | 8.00\u00d7 (20.0\u00d7, 5.00\u00d7) |" in text


def test_table_on_the_terminal_holds_every_measurement():
    lines = report.to_text(document()).splitlines()
    assert lines[0].split("  ")[0] == "convolution"
    assert lines[1].split() == (
        ["a", "forward", "1.00", "10.0", "0.500"]
        + ["10.0\u00d7", "0.50\u00d7", "1.00", "2.00", "50%", "taps"]
    )
    assert lines[2].split()[:4] == ["b", "forward", "2.00", "80.0"]


def test_plot_is_a_png():
    assert plot.draw(document()).startswith(b"\x89PNG")


def test_plot_needs_a_comparison():
    with pytest.raises(results.UnreadableError, match="nothing to draw"):
        plot.draw(document(against=[]))


def test_progress_is_a_line_for_each_measurement_where_no_terminal_is():
    stream = io.StringIO()
    with Progress(12, stream) as progress:
        progress.start("first")
        progress.finish("first: 1 ms")
        progress.finish("second: 2 ms")
    assert stream.getvalue() == "[ 1/12] first: 1 ms\n[ 2/12] second: 2 ms\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_a_bar_on_a_terminal():
    stream = Terminal()
    with Progress(2, stream) as progress:
        progress.start("first")
        progress.finish("first: 1 ms")
    assert "1/2" in stream.getvalue()
    assert "first: 1 ms" not in stream.getvalue()


def test_progress_without_tqdm_says_what_brings_the_bar(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tqdm", None)
    stream = Terminal()
    with Progress(1, stream) as progress:
        progress.finish("first: 1 ms")
    assert 'pip install "grouped_conv_jax[train]"' in stream.getvalue()
    assert stream.getvalue().endswith("[1/1] first: 1 ms\n")
