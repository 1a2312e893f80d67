"""The command line: what it refuses, and how."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from grouped_conv_jax import __version__
from grouped_conv_jax.commands import _processes, _program, main
from grouped_conv_jax.commands._errors import CommandError
from grouped_conv_jax.commands._options import Options, image_size


@pytest.mark.parametrize("command", [["train"], ["predict"], []])
def test_help_names_every_option_and_succeeds(capsys, command):
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    expected = {
        "train": "--data --image-size --api --solver --learning-rate --l2 --momentum --epochs "
        "--batch-size --seed --schedule --patience --resume --out --no-huge-pages model.stablehlo "
        "--coordinator --processes --process-id",
        "predict": "--model --json --no-huge-pages IMAGE",
        "": "train predict --version",
    }
    for word in expected["".join(command)].split():
        assert word in text


@pytest.mark.parametrize("command", ["train", "predict"])
def test_help_and_documentation_say_how_images_are_read(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    help = capsys.readouterr().out
    page = (Path(__file__).parents[1] / "docs/how-to/commands.md").read_text(encoding="utf-8")
    for word in ("proportions", "ransparent", "white", "rounded", "65535", "value_range"):
        assert word in help
        assert word in page


def test_advice_names_the_program_as_it_was_started(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", [".venv/bin/grouped-conv-jax", "train"])
    assert _program.command("train", "--out", "my run") == (
        ".venv/bin/grouped-conv-jax train --out 'my run'"
    )
    # Found by its name alone.
    installed = tmp_path / "grouped-conv-jax"
    installed.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(installed), "train"])
    assert _program.command("train") == "grouped-conv-jax train"


def test_python_m_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "grouped_conv_jax", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"grouped-conv-jax {__version__}\n"


REFUSED = [
    (["--epochs", "0"], "argument --epochs: must be a positive integer, got '0'"),
    (["--epochs", "ten"], "argument --epochs: must be a positive integer, got 'ten'"),
    (["--patience", "0"], "argument --patience: must be a positive integer, got '0'"),
    (["--learning-rate", "nan"], "argument --learning-rate: must be a positive finite number"),
    (["--learning-rate", "0"], "argument --learning-rate: must be a positive finite number"),
    (["--l2", "-1e-4"], "argument --l2: "),
    (["--l2=-1e-4"], "argument --l2: must be a nonnegative finite number, got '-1e-4'"),
    (["--momentum", "1.1"], "argument --momentum: must be a number from 0 to 1, got '1.1'"),
    (["--seed=-1"], "argument --seed: must be an integer from 0 to 2147483647, got '-1'"),
    (["--image-size=-3"], "argument --image-size: must be N or HEIGHTxWIDTH, from 3 to 4096"),
    (["--image-size", "2"], "from 3 to 4096 pixels each, got '2'"),
    (["--image-size", "64x"], "got '64x'"),
    (["--api", "keras"], "argument --api: invalid choice: 'keras'"),
    (["--solver", "sgd"], "argument --solver: invalid choice: 'sgd'"),
    (["--schedule", "cosine"], "argument --schedule: invalid choice: 'cosine'"),
    (["--coordinator", "host"], "argument --coordinator: must be HOST:PORT, got 'host'"),
    (["--coordinator", "host:0"], "must be HOST:PORT, got 'host:0'"),
    (["--coordinator", "host:70000"], "must be HOST:PORT, got 'host:70000'"),
    (["--processes", "0"], "argument --processes: must be a positive integer, got '0'"),
    (["--process-id=-1"], "argument --process-id: must be a nonnegative integer, got '-1'"),
    (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: str(value))
def test_train_refuses_a_bad_option_by_name_rule_and_value(capsys, options, message):
    with pytest.raises(SystemExit) as end:
        main(["train", *options])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["fit"], ["predict", "a.png"], ["predict", "--model=x"]])
def test_a_missing_or_unknown_argument_is_refused(capsys, arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", "8"], "--image-size is for --data"),
        (["--momentum", "0.5"], "--momentum is for --solver sgdm, got --solver adam"),
        (["--momentum=1", "--solver=rmsprop"], "for --solver sgdm, got --solver rmsprop"),
        (["--data", "nowhere"], "--data must be a folder with one subfolder per class"),
        (["--processes", "2"], "--coordinator, --processes and --process-id belong together"),
        (
            ["--coordinator", "localhost:1", "--processes", "2", "--process-id", "2"],
            "--process-id must be less than --processes 2, got 2",
        ),
        (["--batch-size", "2000"], "--batch-size must be at most the number of training images"),
    ],
)
def test_train_refuses_what_does_not_fit_together(capsys, tmp_path, options, message):
    out = tmp_path / "out"
    assert main(["train", "--out", str(out), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("grouped-conv-jax train: error: ")
    assert message in error
    assert not out.exists()


def test_train_refuses_to_write_over_a_file(capsys, tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    assert main(["train", "--out", str(path)]) == 2
    assert "--out must be a directory" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_processes_with_other_options_are_refused(capsys, monkeypatch, tmp_path):
    """As if the first process had been given something else."""
    monkeypatch.setattr(_processes, "from_first", lambda _: '{"seed": 1}')
    assert main(["train", "--out", str(tmp_path / "out"), "--seed", "2"]) == 2
    error = capsys.readouterr().err
    assert 'all processes need the same options, {"seed": 1}; got {' in error
    assert '"seed": 2' in error


def test_processes_with_more_devices_than_others_are_refused():
    devices = [SimpleNamespace(process_index=i) for i in (0, 1, 1, 0)]
    _processes.check_even(devices)
    with pytest.raises(
        CommandError, match="same number of devices, got 2 in process 0, 1 in process 1"
    ):
        _processes.check_even([devices[i] for i in (0, 3, 1)])


@pytest.mark.parametrize("name", ["metrics.csv", "checkpoint", "model.stablehlo", "curves.png"])
def test_train_refuses_to_write_over_anything(capsys, tmp_path, name):
    (tmp_path / name).mkdir()
    assert main(["train", "--out", str(tmp_path)]) == 2
    assert f"already holds {name}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (["train"], "matplotlib"),
        (["train"], "flatbuffers"),
        (["train"], "sklearn"),
        (["train", "--data", "x"], "PIL"),
        (["predict", "--model", "x", "a.png"], "PIL"),
        (["predict", "--model", "x", "a.png"], "flatbuffers"),
    ],
)
def test_a_missing_extra_is_named_with_what_installs_it(
    capsys, monkeypatch, tmp_path, command, module
):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert module in error
    assert 'pip install "grouped_conv_jax[train]"' in error
    assert not list(tmp_path.iterdir())


def test_tqdm_is_needed_on_a_terminal_alone(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["train"]) == 2
    assert "tqdm" in capsys.readouterr().err


def test_defaults_follow_from_the_solver_and_the_data():
    assert Options.begin({}).learning_rate == 0.005
    assert Options.begin({}).momentum is None
    assert Options.begin({}).image_size is None
    sgdm = Options.begin({"solver": "sgdm", "data": "x"})
    assert (sgdm.learning_rate, sgdm.momentum, sgdm.image_size) == (0.05, 0.9, (64, 64))
    assert Options.begin({"solver": "rmsprop", "learning_rate": 0.5}).learning_rate == 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": 1}, "--seed 0; got --seed 1"),
        ({"solver": "sgdm"}, "--solver adam; got --solver sgdm"),
        ({"image_size": (8, 9)}, "--image-size 64x64; got --image-size 8x9"),
    ],
)
def test_resume_refuses_other_options(given, message):
    stored = Options.from_json(Options.begin({"data": "x"}).to_json())
    with pytest.raises(CommandError, match=message):
        stored.resume(given)


def test_resume_takes_the_same_options_again_more_epochs_and_another_place_of_the_data():
    stored = Options.begin({"data": "x"})
    assert stored.resume({}) == stored
    assert stored.resume({"seed": 0, "solver": "adam", "image_size": (64, 64)}) == stored
    changed = stored.resume({"epochs": 99, "data": "y"})
    assert (changed.epochs, changed.data) == (99, "y")
    with pytest.raises(CommandError, match="the digits; got --data"):
        Options.begin({}).resume({"data": "x"})


@pytest.mark.parametrize(
    ("text", "size"), [("64", (64, 64)), ("48x64", (48, 64)), ("3X4096", (3, 4096))]
)
def test_image_size_is_one_number_or_height_and_width(text, size):
    assert image_size(text) == size
