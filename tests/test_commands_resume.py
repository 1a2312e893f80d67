"""A run that is stopped, in whatever way, and resumed ends as one that never was."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from command_runs import EPOCHS, OPTIONS, finished, one_device  # noqa: F401
from jax import export

from grouped_conv_jax.commands import _data, _progress, _run, _run_directory, main
from grouped_conv_jax.commands._errors import CommandError

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(name="base")
def _base(finished):  # noqa: F811
    return finished


def assert_same_run(out, reference):
    """The same metrics, to the last digit, and the same results, options and network."""
    for name in ("metrics.csv", "config.json"):
        assert (out / name).read_bytes() == (reference / name).read_bytes(), name
    # The bytes of an exported network also depend on what the process exported before.
    images = np.random.default_rng(0).random((2, 8, 9, 3), np.float32)
    networks = [(path / "model.stablehlo").read_bytes() for path in (out, reference)]
    answers = [export.deserialize(bytearray(network)).call(images) for network in networks]
    np.testing.assert_array_equal(*answers)
    assert sorted(os.listdir(out)) == sorted(os.listdir(reference))
    assert os.listdir(out / "checkpoint") == os.listdir(reference / "checkpoint")


def resume(out, *options):
    return main(["train", "--resume", "--out", str(out), *options])


def begin(base, out):
    """Starts a run in a process of its own."""
    command = [sys.executable, "-u", "-m", "grouped_conv_jax", "train", "--out", str(out)]
    return subprocess.Popen(
        [*command, "--data", str(base / "images"), *OPTIONS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def send_after_line(process, number, beginning):
    """Sends a signal as soon as a line is there, and returns what was printed as errors."""
    for line in process.stdout:
        if line.startswith(beginning):
            process.send_signal(number)
    return process.communicate(timeout=60)[1]


@pytest.mark.slow
def test_after_kill_9_resume_reaches_the_same_results(base, tmp_path, capsys):
    out = tmp_path / "run"
    process = begin(base, out)
    send_after_line(process, signal.SIGKILL, "epoch 2/")
    assert process.returncode == -signal.SIGKILL
    assert not (out / "model.stablehlo").exists()
    # What a run killed in the middle of writing leaves behind.
    (out / "checkpoint" / "999.orbax-checkpoint-tmp").mkdir()
    (out / ".metrics.csv.part").write_text("epoch,learning")
    (step,) = (path for path in (out / "checkpoint").iterdir() if path.name.isdigit())
    (out / "checkpoint" / "1" / "state").mkdir(parents=True)
    assert resume(out) == 0
    assert f"resuming after {int(step.name) // 4} epochs" in capsys.readouterr().out
    assert_same_run(out, base / "run")


@pytest.mark.slow
def test_ctrl_c_saves_says_how_to_resume_and_loses_nothing(base, tmp_path):
    """Even while JAX compiles, where an exception would crash the interpreter."""
    out = tmp_path / "run"
    process = begin(base, out)
    error = send_after_line(process, signal.SIGINT, "40 images")
    assert process.returncode == 130
    program = f"{sys.executable} -m grouped_conv_jax"
    assert error.endswith(
        f"interrupted and saved; resume with: {program} train --resume --out {out}\n"
    )
    assert "Traceback" not in error
    assert resume(out) == 0
    assert_same_run(out, base / "run")


@pytest.mark.slow
def test_sigterm_within_an_epoch_keeps_its_steps(base, tmp_path, monkeypatch, capsys):
    out, steps = tmp_path / "run", itertools.count(1)

    def step(_):
        if next(steps) == 5:
            signal.raise_signal(signal.SIGTERM)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(_progress.Lines, "step", step)
        words = ["train", "--data", str(base / "images"), "--out", str(out), *OPTIONS]
        assert main(words) == 143
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    # An epoch has four steps.
    assert os.listdir(out / "checkpoint") == ["5"]
    assert resume(out) == 0
    assert "resuming after 1 epoch and 1 of 4 steps" in capsys.readouterr().out
    assert_same_run(out, base / "run")


def test_resuming_a_finished_run_changes_nothing(base, tmp_path):
    out = shutil.copytree(base / "run", tmp_path / "run")
    (out / "curves.png").unlink()
    assert resume(out, "--seed", "7") == 0
    assert_same_run(out, base / "run")


@pytest.mark.slow
def test_more_epochs_continue_a_finished_run_and_fewer_are_refused(base, tmp_path, capsys):
    out = shutil.copytree(base / "run", tmp_path / "run")
    assert resume(out, "--epochs", str(EPOCHS - 1)) == 2
    assert f"--epochs must be at least the {EPOCHS} that the run" in capsys.readouterr().err
    assert_same_run(out, base / "run")
    assert resume(out, "--epochs", str(EPOCHS + 1)) == 0
    old = (base / "run" / "metrics.csv").read_text()
    new = (out / "metrics.csv").read_text()
    assert new.startswith(old)
    assert len(new.splitlines()) == len(old.splitlines()) + 1
    assert json.loads((out / "config.json").read_text())["results"]["epochs"] == EPOCHS + 1


def test_another_option_is_refused_and_the_run_kept(base, capsys):
    assert resume(base / "run", "--solver", "sgdm") == 2
    assert "--solver adam; got --solver sgdm" in capsys.readouterr().err
    assert json.loads((base / "run" / "config.json").read_text())["results"]


def test_other_images_are_refused_and_the_same_elsewhere_taken(base, tmp_path, capsys):
    out = shutil.copytree(base / "run", tmp_path / "run")
    images = shutil.copytree(base / "images", tmp_path / "moved")
    (images / "left" / "00.png").write_bytes((images / "right" / "00.png").read_bytes())
    assert resume(out, "--data", str(images)) == 2
    assert "needs the images that the run" in capsys.readouterr().err
    assert_same_run(out, base / "run")
    (images / "left" / "00.png").write_bytes((base / "images" / "left" / "00.png").read_bytes())
    assert resume(out, "--data", str(images)) == 0
    assert json.loads((out / "config.json").read_text())["options"]["data"] == str(images)


def test_resume_where_nothing_was_begun_is_refused(base, tmp_path, capsys):
    """Were it to begin a run, a mistyped --out would lose the one that was meant."""
    out = tmp_path / "rum"
    assert resume(out, "--data", str(base / "images")) == 2
    assert f"there is no {out / 'config.json'}" in capsys.readouterr().err
    assert not out.exists()


def test_a_run_that_ends_while_its_data_are_loaded_can_be_resumed(
    base, tmp_path, monkeypatch, capsys
):
    def interrupt(*_):
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(_data, "load_folder", interrupt)
        words = ["train", "--data", str(base / "images"), "--out", str(out), *OPTIONS]
        assert main(words) == 130
    assert f"train --resume --out {out}" in capsys.readouterr().err
    config = json.loads((out / "config.json").read_text())
    assert (config["options"]["seed"], config["results"]) == (7, None)
    assert resume(out, "--data", str(tmp_path / "nowhere")) == 2
    begun = []
    monkeypatch.setattr(_run, "Run", lambda *_: SimpleNamespace(execute=begun.append))
    assert resume(out) == 0
    assert len(begun) == 1


def test_a_second_run_in_the_same_directory_says_so_at_once_and_stops(base, tmp_path, capsys):
    out = tmp_path / "run"
    with _run_directory.locked(out):
        before = os.listdir(out)
        for options in ([], ["--data", str(base / "images")]):
            assert main(["train", "--out", str(out), *options]) == 2
            assert f"--out {out}: another process is training there" in capsys.readouterr().err
        assert os.listdir(out) == before
        shutil.copy(base / "run" / "config.json", out)
        assert resume(out) == 2
        assert "another process is training there" in capsys.readouterr().err
    with _run_directory.locked(out):
        pass


def test_without_locks_of_the_system_a_file_is_the_lock(tmp_path, monkeypatch, capsys):
    """On Windows."""
    monkeypatch.setattr(_run_directory, "fcntl", None)
    out = tmp_path / "run"
    with _run_directory.locked(out):
        assert main(["train", "--out", str(out)]) == 2
        assert f"--out {out}: another process is training there" in capsys.readouterr().err
        assert os.listdir(out) == [".running"]
    assert os.listdir(out) == []
    # A run that ends by itself gives the directory back, one that was killed does not.
    with pytest.raises(KeyboardInterrupt), _run_directory.locked(out):
        raise KeyboardInterrupt
    (out / ".running").touch()
    assert main(["train", "--out", str(out)]) == 2
    assert f"or delete {out / '.running'} if there is none" in capsys.readouterr().err
    (out / ".running").unlink()
    # A run that never begins leaves nothing at all.
    assert main(["train", "--out", str(out), "--data", str(tmp_path / "nowhere")]) == 2
    assert not out.exists()


def test_only_one_of_many_gets_a_lock_that_is_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(_run_directory, "fcntl", None)
    barrier = threading.Barrier(16)

    def enter(_):
        barrier.wait()
        try:
            with _run_directory.locked(tmp_path):
                barrier.wait()
        except CommandError:
            barrier.wait()
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(enter, range(16))) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json is damaged"),
        ("[]", "config.json is not the configuration of a run"),
        ('{"format": 99}', "config.json is not the configuration of a run"),
        (
            '{"format": 2, "versions": {}, "options": {"colour": 1}}',
            "options of the run cannot be read: .*colour",
        ),
    ],
)
def test_a_damaged_config_is_refused(tmp_path, capsys, content, message):
    (tmp_path / "config.json").write_text(content)
    assert resume(tmp_path) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_damaged_checkpoint_is_refused(base, tmp_path, capsys):
    out = shutil.copytree(base / "run", tmp_path / "run")
    (step,) = (out / "checkpoint").iterdir()
    for path in (step / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    assert resume(out) == 1
    assert "the checkpoint in" in capsys.readouterr().err
