"""What is kept of measurements, the ratios that follow from it, and how they are shown."""

import io
import sys

import pytest

from grouped_conv_jax.benchmarks import plot, report, results
from grouped_conv_jax.benchmarks.progress import Progress


def document(own=(1.0, 2.0), lax=(10.0, 80.0), torch=(0.5, 3.0), **settings):
    """Two cases in one role; PyTorch's other layout is slower by half."""
    records = []
    for name, ours, other, third in zip("ab", own, lax, torch, strict=True):
        common = {"case": name, "suites": ["alexnet"], "role": "forward", "dtype": "float32"}
        rates = {"gflops": 1.0, "gigabytes_per_second": 2.0, "roofline_share": 0.5}
        rates |= {"peak_share": 0.25, "page_faults": 700.0, "system_milliseconds": 0.125}
        for contender, variant, time in (
            ("ours", "taps", ours),
            ("lax", "lax", other),
            ("torch", "channels-first", 1.5 * third),
            ("torch", "channels-last", third),
        ):
            record = {"contender": contender, "variant": variant, "milliseconds": time}
            records.append(common | record | rates)
    steps = [
        ("ours", "nnx", 2.0),
        ("lax", "nnx", 9.0),
        ("torch", "channels-first", 1.0),
    ]
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


def test_a_failure_in_one_run_is_a_failure_of_them_all():
    failed = document()
    record = failed["measurements"][1]
    del record["milliseconds"]
    record["failure"] = "MemoryError"
    combined = results.combine([document(), failed, document()])
    assert results.failures(combined) == [record]
    assert [row.speedup("lax") for row in results.case_rows(combined)] == [None, 40]


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
        ("{", "not JSON"),
        ("[]", "not what `bench --json` writes"),
        ('{"format": 0}', "not what `bench --json` writes"),
        ('{"format": 1, "versions": {}}', "lacks machine"),
    ],
)
def test_other_files_are_refused(text, message):
    with pytest.raises(results.UnreadableError, match=message):
        results.from_json(text)


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


def test_markdown_states_how_memory_was_allocated():
    tuned = document()
    tuned["machine"]["glibc_tunables"] = "glibc.malloc.hugetlb=1"
    first, *_ = report.to_markdown([tuned]).splitlines()
    assert first.startswith("One run on a CPU, 2 cores, GLIBC_TUNABLES=glibc.malloc.hugetlb=1;")
    with pytest.raises(results.UnreadableError, match="the runs differ in glibc_tunables"):
        report.to_markdown([tuned, document()])


def test_allocator_and_pages_are_stated():
    huge, small = document(), document()
    for run, pages in ((huge, "huge"), (small, "small")):
        run["machine"] |= {"allocator": "glibc 2.36", "pages": pages, "cores": 1}
        first, *_ = report.to_markdown([run]).splitlines()
        assert first.startswith(f"One run on a CPU, 1 core, glibc 2.36, {pages} pages; float32;")
    with pytest.raises(results.UnreadableError, match="the runs differ in pages: huge and small"):
        report.to_markdown([huge, small])


def test_markdown_states_each_of_several_runs():
    text = report.to_markdown([document(own=(1.0, 2.0)), document(own=(4.0, 8.0))])
    assert text.startswith("Medians of 2 separate runs on a CPU")
    # Of the runs' times, not of their speedups: 10 and 80 over 2.5 and 5.
    assert "| forward, geometric mean of 2 | 8.00\u00d7 (20.0\u00d7, 5.00\u00d7) |" in text


def test_table_on_the_terminal_holds_every_measurement():
    conditions, _, *lines = report.to_text(document()).splitlines()
    assert conditions == "One run on a CPU, 2 cores; float32; JAX 1.2.3, PyTorch 4.5.6."
    assert lines[0].split("  ")[0] == "convolution"
    times, ratios = ["1.00", "10.0", "0.500"], ["10.0\u00d7", "0.50\u00d7"]
    rates = ["1.00", "25%", "2.00", "50%", "700", "0.125", "taps"]
    assert lines[1].split() == ["a", "forward", *times, *ratios, *rates]
    assert lines[2].split()[:4] == ["b", "forward", "2.00", "80.0"]


def test_table_shows_one_thread_against_all_where_it_was_measured():
    measured = document()
    measured["measurements"][0]["one_thread_milliseconds"] = 1.9
    _, _, header, first, second, *_ = report.to_text(measured).splitlines()
    assert "1 thread ms  x 1 thread  GFLOP/s" in header
    assert first.split()[7:9] == ["1.90", "1.90\u00d7"]
    assert second.split()[7:9] == ["-", "-"]


def test_networks_are_shown_with_both_kinds_of_pages():
    measured = document()
    huge = [record | {"pages": "huge", "page_faults": 7.0} for record in measured["networks"]]
    small = [r | {"pages": "small", "milliseconds": 3 * r["milliseconds"]} for r in huge[:2]]
    measured["networks"] = huge + small
    text = report.to_text(measured)
    rows = [line.split() for line in text.splitlines() if line.startswith("resnext-50")]
    assert rows[0][:6] == ["resnext-50", "nnx", "huge", "2.00", "9.00", "1.00"]
    assert rows[0][6:] == ["4.50\u00d7", "0.50\u00d7", "7.00", "-", "7.00", "-", "7.00", "-"]
    assert rows[1][:6] == ["resnext-50", "nnx", "small", "6.00", "27.0", "-"]
    assert "training step, ResNeXt-50 in NNX, small pages" in text


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
    monkeypatch.setitem(sys.modules, "tqdm", None)
    stream = Terminal()
    with Progress(1, stream) as progress:
        progress.finish("first: 1 ms")
    assert 'pip install "grouped_conv_jax[train]"' in stream.getvalue()
    assert stream.getvalue().endswith("[1/1] first: 1 ms\n")
