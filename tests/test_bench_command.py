"""The command ``bench``: its arguments, what it writes, and what it refuses."""

import argparse
import builtins
import importlib
import json
import os
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from grouped_conv_jax.benchmarks import contenders, machine, memory_allocator, results
from grouped_conv_jax.benchmarks.suites import SUITES
from grouped_conv_jax.commands import _other_process, bench
from grouped_conv_jax.commands._errors import CommandError

SHAPE = ["--shape", "1,6,6,4", "--groups", "2", "--rounds", "1", "--seconds", "0.001"]


@pytest.fixture(autouse=True)
def _known_roofline(monkeypatch):
    roofline = {"copy": [[1000, 1e9], [2000, 1e9]], "flops": 1e9}
    monkeypatch.setattr(machine, "measure_roofline", lambda _: roofline)


def run(*words):
    parser = argparse.ArgumentParser(prog="bench", allow_abbrev=False)
    bench.add_arguments(parser)
    return bench.run(parser.parse_args([str(word) for word in words]))


def refusal(*words):
    with pytest.raises(CommandError) as caught:
        run(*words)
    assert caught.value.exit_status == 2
    return str(caught.value)


def test_shape_from_flags_is_measured_shown_and_kept(tmp_path, capsys):
    path = tmp_path / "run.json"
    options = ["--filters", 8, "--filter-size", "3,2", "--stride", 2, "--dilation", "1,2"]
    assert run(*SHAPE, *options, "--padding", "1,0,2,1", "--role", "forward", "--json", path) == 0
    shown = capsys.readouterr()
    assert "1x6x6x4->8 k3x2 s2 d1x2 p1,0,2,1 g2" in shown.out
    assert "geometric mean of 1" in shown.out
    assert shown.err.startswith("[1/1] ")
    kept = results.from_json(path.read_text())
    assert [record["contender"] for record in kept["measurements"]] == ["ours", "lax"]
    assert kept["settings"]["rounds"] == 1
    assert kept["settings"]["roles"] == ["forward"]
    assert kept["machine"]["cores"] >= 1
    assert "jax" in kept["versions"]
    assert list(tmp_path.iterdir()) == [path]


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are kept on cores")


@needs_linux
def test_one_thread_is_measured_in_a_process_that_has_one_core(tmp_path, capfd):
    before, path = os.sched_getaffinity(0), tmp_path / "run.json"
    options = ["--filter-size", "3,2", "--role", "forward", "--one-thread", "--json", path]
    assert run(*SHAPE, *options) == 0
    assert os.sched_getaffinity(0) == before
    ours, lax = results.from_json(path.read_text())["measurements"]
    assert ours["one_thread_milliseconds"] > 0
    assert "one_thread_milliseconds" not in lax
    shown = capfd.readouterr()
    assert "x 1 thread" in shown.out
    assert "measuring again on one core" in shown.err
    # The other process measures this package alone, in the same way.
    assert "[1/1] 1x6x6x4->4 k3x2 g2, forward: ours" in shown.err.partition("measuring again")[2]


@needs_linux
def test_other_process_gets_the_core_the_environment_and_the_options(monkeypatch):
    asked = []

    def start(command, env, **_):
        asked.append((command[4:-3], env.get("GLIBC_TUNABLES"), len(os.sched_getaffinity(0))))
        records = {"measurements": [], "networks": [{"network": "n", "pages": "small"}]}
        document = dict.fromkeys(results._KEYS) | records
        Path(command[-1]).write_text(results.to_json(document))

    monkeypatch.setattr(_other_process.subprocess, "run", start)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    monkeypatch.setattr(memory_allocator, "page_setting", lambda: "madvise")
    monkeypatch.setattr(memory_allocator, "libc", lambda: "glibc 2.36")
    document = {"measurements": [], "networks": [], "machine": {"pages": "huge"}}
    _other_process.add_one_thread(document, ["--suite", "alexnet"])
    _other_process.add_small_pages(document, ["--network", "n"])
    assert asked[0] == (["--suite", "alexnet", "--against"], "glibc.malloc.hugetlb=1", 1)
    assert asked[1] == (["--network", "n"], None, len(os.sched_getaffinity(0)))
    assert document["networks"] == [{"network": "n", "pages": "small"}]
    # With small pages already there is nothing more to measure.
    document["machine"]["pages"] = "small"
    _other_process.add_small_pages(document, ["--network", "n"])
    assert len(asked) == 2


def test_other_process_that_measures_nothing_is_a_failure(monkeypatch):
    monkeypatch.setattr(_other_process.subprocess, "run", lambda *_, **__: None)
    with pytest.raises(CommandError, match="measuring on one core failed") as caught:
        run(*SHAPE, "--role", "forward", "--one-thread")
    assert caught.value.exit_status == 1


def test_options_are_repeated_as_they_were_given():
    words = [
        *("--suite", "alexnet", "regnet-y", "--network", "resnext-50", "--against", "torch"),
        *("--role", "forward", "--batch", "2", "--rounds", "4", "--seconds", "0.5"),
    ]
    parser = argparse.ArgumentParser(allow_abbrev=False)
    bench.add_arguments(parser)
    given = vars(parser.parse_args([*words, "--one-thread", "--json", "x"]))
    repeated = bench._repeated(given, but=("role",))
    assert vars(parser.parse_args(repeated)) == {
        name: value for name, value in given.items() if name not in ("one_thread", "json", "role")
    }


def test_suites_are_measured_once_each(tmp_path, monkeypatch):
    case, *_ = SUITES["mobilenet-v2"]
    monkeypatch.setitem(SUITES, "alexnet", (case,))
    monkeypatch.setitem(SUITES, "reported", (case,))
    path = tmp_path / "run.json"
    quick = ["--batch", 1, "--rounds", 1, "--role", "forward", "--against", "--json", path]
    assert run("--suite", "alexnet", "reported", *quick) == 0
    (record,) = results.from_json(path.read_text())["measurements"]
    assert record["suites"] == ["alexnet", "reported"]
    assert record["case"] == "1x112x112x32 k3 depthwise"


def test_wrong_result_gives_exit_status_1(monkeypatch, capsys):
    convolve = contenders.convolve
    monkeypatch.setattr(contenders, "convolve", lambda *given: 2 * convolve(*given))
    assert run(*SHAPE, "--role", "forward") == 1
    assert "wrong: error" in capsys.readouterr().out


def test_kept_runs_are_shown_again(tmp_path, capsys):
    path, table, picture = (tmp_path / name for name in ("run.json", "table.md", "plot.png"))
    run(*SHAPE, "--json", path, "--role", "forward")
    capsys.readouterr()
    assert run("--from-json", path, path, "--markdown", table, "--plot", picture) == 0
    assert "1x6x6x4->4 k3 g2" in capsys.readouterr().out
    run("--from-json", path, "--markdown", "-")
    assert capsys.readouterr().out.startswith("One run on")
    assert table.read_text().startswith("Medians of 2 separate runs")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_one_shape_has_its_row_and_its_name_in_the_plot(tmp_path, monkeypatch):
    path, table, picture = (tmp_path / name for name in ("run.json", "table.md", "plot.png"))
    run(*SHAPE, "--json", path, "--role", "forward")
    figures, savefig = [], Figure.savefig

    def remember(figure, *args, **kwargs):
        figures.append(figure)
        savefig(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", remember)
    assert run("--from-json", path, "--markdown", table, "--plot", picture) == 0
    ours, lax = results.from_json(path.read_text())["measurements"]
    speedup = lax["milliseconds"] / ours["milliseconds"]
    *_, header, _, row = table.read_text().splitlines()
    assert header == "| suite | cases | forward / lax |"
    name, count, ratio = row.strip("| ").split(" | ")
    assert (name, count) == ("1x6x6x4->4 k3 g2", "1")
    assert float(ratio[:-1]) == pytest.approx(speedup, rel=0.05)
    (figure,) = figures
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [name]
    assert [text.get_text() for text in axes.texts] == [ratio]
    # The title is not wider than the picture.
    title = figure._suptitle.get_window_extent()
    assert 0 <= title.x0 < title.x1 <= figure.bbox.width


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    path.write_text("what was there before")

    def fail(_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        run(*SHAPE, "--json", path, "--role", "forward", "--against")
    assert path.read_text() == "what was there before"


def test_options_offer_what_there_is():
    assert bench._DTYPES == contenders.DTYPES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to measure: give --suite, --shape, --network or --from-json"),
        (["--suite", "alexnet", "--shape", "1,6,6,4"], "--suite and --shape exclude each other"),
        (["--suite", "alexnet", "--groups", "2"], "--groups is for --shape"),
        (["--network", "resnext-50", "--role", "forward"], "--role is for --suite and --shape"),
        (["--from-json", "x", "--json", "y"], "--json is for measurements"),
        (["--shape", "1,6,6,4", "--batch", "2"], "--batch is for --suite and --network"),
        (["--shape", "6,6,4"], "--shape must be B,H,W,C, got 6,6,4"),
        (["--shape", "1,6,6,4", "--groups", "3"], "--groups 3 must divide channels, got 4"),
        (
            ["--shape", "1,6,6,4", "--groups", "2", "--filters", "5"],
            "--groups 2 must divide --filters, got 5",
        ),
        (
            ["--shape", "1,6,6,4", "--groups", "none"],
            "--groups must be a positive integer or channel-wise, got 'none'",
        ),
        (
            ["--shape", "1,6,6,4", "--padding", "1,2"],
            "--padding must be same, valid, P or T,B,L,R, got '1,2'",
        ),
        (
            ["--shape", "1,6,6,4", "--filter-size", "7", "--padding", "valid"],
            "the filter must fit into the padded image: it covers 7x7 pixels of 6x6",
        ),
        (
            ["--shape", "1,6,6,4", "--json", "no/such/directory.json"],
            "--json no/such/directory.json: there is no directory no/such",
        ),
    ],
)
def test_useless_and_wrong_options_are_refused(words, message):
    assert refusal(*words) == message


def test_unknown_implementation_is_refused():
    assert "implementation must be" in refusal("--shape", "1,6,6,4", "--implementation", "fast")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "vgg"], "invalid choice: 'vgg'"),
        (["--shape", "1,6,x,4"], "must be positive integers, separated by commas, got '1,6,x,4'"),
        (["--rounds", "0"], "must be a positive integer, got '0'"),
        (["--seconds", "nan"], "must be a positive finite number, got 'nan'"),
        (["--against", "keras"], "invalid choice: 'keras'"),
        (["--dtype", "int8"], "invalid choice: 'int8'"),
    ],
)
def test_values_are_checked_by_the_parser(words, message, capsys):
    with pytest.raises(SystemExit):
        run(*words)
    assert message in capsys.readouterr().err


def test_missing_torch_is_named_before_anything_is_measured(monkeypatch):
    original = importlib.import_module

    def without_torch(name, *rest):
        if name == "torch":
            raise ImportError("No module named 'torch'")
        return original(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without_torch)
    message = refusal(*SHAPE, "--against", "torch")
    assert message.startswith("--against torch: PyTorch is missing")
    assert "pip install torch" in message


def test_missing_matplotlib_is_named_before_anything_is_measured(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = refusal(*SHAPE, "--plot", tmp_path / "plot.png")
    assert 'pip install "grouped_conv_jax[train]"' in message


@pytest.mark.parametrize("text", ["{", json.dumps({"format": 99})])
def test_unreadable_runs_are_named(text, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(text)
    assert refusal("--from-json", path).startswith(f"{path} cannot be read: ")


def test_absent_runs_are_named(tmp_path):
    assert refusal("--from-json", tmp_path / "none.json").startswith(f"{tmp_path / 'none.json'}")


def test_help_needs_nothing_that_is_optional(monkeypatch, capsys):
    original = builtins.__import__

    def without_extras(name, *rest):
        assert name.partition(".")[0] not in ("torch", "matplotlib", "tqdm")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_extras)
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "mobilenet-v2" in shown
    assert "forward, filter-gradient, input-gradient" in " ".join(shown.split())
