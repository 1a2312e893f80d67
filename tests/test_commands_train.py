"""What ``train`` writes, and what a run depends on."""

import csv
import fcntl
import json
import os
import pty
import shlex
import struct
import sys
import termios
import warnings
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from command_runs import EPOCHS, OPTIONS, draw_images, finished, one_device  # noqa: F401
from jax import export
from PIL import Image

from grouped_conv_jax import linen, optim
from grouped_conv_jax.commands import _data, _networks, main
from grouped_conv_jax.commands._learner import Learner, learning_rate_schedule, make_solver
from grouped_conv_jax.commands._options import Options
from grouped_conv_jax.commands._plots import draw_confusion, draw_curves, draw_filters
from grouped_conv_jax.commands._progress import Bar
from grouped_conv_jax.commands._run_directory import write
from grouped_conv_jax.commands._training import Training, best_epoch, steps_per_epoch

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(name="base")
def _base(finished):  # noqa: F811
    return finished


def read_metrics(run):
    with (run / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def exported_probabilities(run, images):
    exported = export.deserialize(bytearray((run / "model.stablehlo").read_bytes()))
    return np.asarray(exported.call(images.astype(np.float32) / np.float32(255)), np.float64)


@pytest.mark.slow
def test_default_run_on_the_digits_reaches_97_percent(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "--out", str(out)]) == 0
    results = json.loads((out / "config.json").read_text())["results"]
    assert results["test_accuracy"] >= 0.97
    assert f"test accuracy {results['test_accuracy']:.2%}" in capsys.readouterr().out
    data = _data.load_digits()
    test = data.split(seed=0)["test"]
    answers = exported_probabilities(out, data.images[test]).argmax(-1)
    assert np.mean(answers == data.labels[test]) == pytest.approx(results["test_accuracy"])


def test_everything_is_written_and_nothing_else(base):
    assert sorted(path.name for path in (base / "run").iterdir()) == [
        ".lock",
        "checkpoint",
        "config.json",
        "confusion.png",
        "curves.png",
        "examples",
        "filters.png",
        "metrics.csv",
        "model.stablehlo",
    ]
    assert len(list((base / "run" / "checkpoint").iterdir())) == 1


def test_config_holds_the_options_the_data_and_what_predict_needs(base):
    config = json.loads((base / "run" / "config.json").read_text())
    assert config["classes"] == ["left", "right"]
    assert config["image_size"] == [8, 9]
    assert config["channels"] == 3
    assert config["pixel_maximum"] == 255
    assert config["value_range"] is None
    assert config["versions"] == {
        name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "grouped_conv_jax")
    }
    assert config["options"] == {
        "data": str(base / "images"),
        "image_size": [8, 9],
        "api": "linen",
        "solver": "adam",
        "learning_rate": 0.005,
        "l2": 1e-4,
        "momentum": None,
        "epochs": EPOCHS,
        "batch_size": 8,
        "seed": 7,
        "schedule": "none",
        "patience": None,
    }
    assert config["images"] == {"training": 28, "validation": 6, "test": 6}
    assert config["left_out"] == []


def test_metrics_have_a_row_an_epoch(base):
    rows = read_metrics(base / "run")
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert {row["learning_rate"] for row in rows} == {0.005}
    for row in rows:
        assert row["training_loss"] > 0
        assert row["validation_loss"] > 0
        assert 0 <= row["training_accuracy"] <= 1
        # The last partial batch counts: the shares have these denominators.
        assert row["training_accuracy"] * 28 == pytest.approx(round(row["training_accuracy"] * 28))
        assert row["validation_accuracy"] * 6 == pytest.approx(
            round(row["validation_accuracy"] * 6)
        )
    assert rows[-1]["training_loss"] < rows[0]["training_loss"]


def test_the_exported_network_is_that_of_the_best_epoch(base):
    """Its loss, computed from its probabilities, is the lowest validation loss of the run."""
    results = json.loads((base / "run" / "config.json").read_text())["results"]
    rows = read_metrics(base / "run")
    losses = [row["validation_loss"] for row in rows]
    assert results["kept_epoch"] == np.argmin(losses) + 1
    data = _data.load_folder(base / "images", (8, 9))
    parts = data.split(seed=7)
    for part, loss in (("validation", min(losses)), ("test", results["test_loss"])):
        indices = parts[part]
        probabilities = exported_probabilities(base / "run", data.images[indices])
        of_truth = probabilities[np.arange(len(indices)), data.labels[indices]]
        assert -np.log(of_truth).mean() == pytest.approx(loss, rel=1e-4)


def test_the_exported_network_takes_any_batch_and_runs_on_three_platforms(base):
    exported = export.deserialize(bytearray((base / "run" / "model.stablehlo").read_bytes()))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    images = np.random.default_rng(0).random((5, 8, 9, 3), np.float32)
    together = exported.call(images)
    np.testing.assert_allclose(together.sum(-1), 1, rtol=1e-5)
    for i in range(0, 5, 4):
        np.testing.assert_allclose(exported.call(images[i : i + 1])[0], together[i], rtol=1e-5)


def test_the_checkpoint_is_an_ordinary_one_of_orbax(base):
    """Its best parameters, restored by Orbax and given to the module, are the exported network."""
    (step,) = (base / "run" / "checkpoint").iterdir()
    with warnings.catch_warnings():
        # Orbax warns that it takes the devices, too, from the file.
        warnings.filterwarnings("ignore", message="Sharding info not provided")
        restored = ocp.PyTreeCheckpointer().restore(step / "state")
    images = np.random.default_rng(1).integers(0, 256, (3, 8, 9, 3)).astype(np.uint8)
    expected = linen.SeparableNetwork(2).apply(
        jax.tree.map(jnp.asarray, restored["best"]), jnp.asarray(images / 255, jnp.float32)
    )
    np.testing.assert_allclose(exported_probabilities(base / "run", images), expected, rtol=1e-4)


def test_biases_that_batch_normalization_cancels_stay_zero(base):
    """Under Adam, gradients that are rounding errors would move them by the learning rate."""
    (step,) = (base / "run" / "checkpoint").iterdir()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sharding info not provided")
        restored = ocp.PyTreeCheckpointer().restore(step / "state")
    for params in (restored["best"]["params"], restored["state"]["params"]):
        for name in ("convolution", "channel_wise", "pointwise"):
            np.testing.assert_array_equal(params[name]["bias"], 0)
            assert np.any(params[f"{name}_norm"]["bias"])
    assert (
        "biases frozen, as batch normalization cancels them" in (base / "printed.txt").read_text()
    )


def test_a_run_ends_with_a_command_that_classifies_a_test_image(base, capsys):
    *_, last = (base / "printed.txt").read_text().splitlines()
    program, words = last.removeprefix("next: ").split(" predict ")
    # The tests are another program.
    assert shlex.split(program) == [sys.executable, "-m", "grouped_conv_jax"]
    assert main(["predict", *shlex.split(words)]) == 0
    name, label, probability = capsys.readouterr().out.strip().split("\t")
    assert name == str(base / "run" / "examples" / "1-left.png")
    assert label in ("left", "right")
    assert float(probability) >= 0.5
    # It is a file of the test images.
    test = _data.load_folder(base / "images", (8, 9)).split(seed=7)["test"]
    paths = sorted((base / "images").glob("*/*.png"))
    contents = [paths[i].read_bytes() for i in test]
    for path in (base / "run" / "examples").iterdir():
        assert path.read_bytes() in contents


def test_the_exported_network_names_no_file_of_this_machine(base):
    network = (base / "run" / "model.stablehlo").read_bytes()
    assert b".py" not in network
    assert b"site-packages" not in network


@pytest.mark.parametrize("name", ["curves", "filters", "confusion"])
def test_pictures_are_pictures(base, name):
    with Image.open(base / "run" / f"{name}.png") as image:
        assert min(image.size) >= 300
        darkest, lightest = image.convert("L").getextrema()
    assert darkest < 60
    assert lightest == 255


def test_a_second_run_does_not_overwrite_the_first(base, capsys):
    before = (base / "run" / "config.json").read_bytes()
    assert main(["train", "--data", str(base / "images"), "--out", str(base / "run")]) == 2
    assert "already holds a run: go on with it by --resume" in capsys.readouterr().err
    assert (base / "run" / "config.json").read_bytes() == before


def test_nnx_trains_with_sgdm_and_names_unreadable_files(tmp_path, capsys):
    images = draw_images(tmp_path / "images")
    (images / "left" / "broken.png").write_text("no image")
    out = tmp_path / "run"
    options = ["--api=nnx", "--solver=sgdm", "--momentum=0.8", "--schedule=piecewise", "--l2=0"]
    assert main(["train", "--data", str(images), "--out", str(out), *OPTIONS, *options]) == 0
    printed = capsys.readouterr()
    assert "files left out: 1" in printed.err
    assert "broken.png: cannot identify" in printed.err
    # Not a terminal: a plain line for each epoch.
    epochs = [line for line in printed.out.splitlines() if line.startswith("epoch ")]
    assert len(epochs) == EPOCHS
    config = json.loads((out / "config.json").read_text())
    assert len(config["left_out"]) == 1
    rows = read_metrics(out)
    assert rows[-1]["training_loss"] < rows[0]["training_loss"]


def test_a_loss_that_is_no_number_ends_the_run_with_advice(tmp_path, capsys):
    images = draw_images(tmp_path / "images")
    out = tmp_path / "run"
    options = [*OPTIONS, "--solver", "sgdm", "--learning-rate", "1e30"]
    assert main(["train", "--data", str(images), "--out", str(out), *options]) == 1
    assert "no finite number any more in epoch 1; a lower --learning-rate" in (
        capsys.readouterr().err
    )


# The parts


def test_piecewise_schedule_takes_a_tenth_every_ten_epochs():
    constant = learning_rate_schedule(Options.begin({"learning_rate": 0.5}), 7)
    piecewise = learning_rate_schedule(
        Options.begin({"learning_rate": 0.5, "schedule": "piecewise"}), 7
    )
    for epoch in range(25):
        for step in (7 * epoch, 7 * epoch + 6):
            assert float(constant(step)) == 0.5
            assert float(piecewise(step)) == pytest.approx(0.5 * 0.1 ** (epoch // 10))


@pytest.mark.parametrize("name", ["sgdm", "adam", "rmsprop"])
def test_solvers_are_those_of_optim_with_the_options_and_the_factors(name):
    given = {"solver": name, "l2": 0.25, "learning_rate": 0.125}
    arguments = {"l2_regularization": 0.25}
    if name == "sgdm":
        given["momentum"] = arguments["momentum"] = 0.75
    factors = optim.Factors(learn_rate={"a": 2.0, "b": 0.0}, l2={"a": 3.0, "b": 1.0})
    options = Options.begin(given)
    ours = make_solver(options, learning_rate_schedule(options, 1), factors)
    theirs = getattr(optim, name)(0.125, factors=factors, **arguments)
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([3.0])}
    gradients = {"a": jnp.array([0.5, 0.25]), "b": jnp.array([1.0])}
    states = [ours.init(params), theirs.init(params)]
    for _ in range(2):
        (got, states[0]), (expected, states[1]) = (
            solver.update(gradients, state, params)
            for solver, state in zip((ours, theirs), states, strict=True)
        )
        jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert got["b"] == 0


@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_a_network_brings_the_factors_of_its_layers_and_freezes_cancelled_biases(api):
    model = linen.SeparableNetwork(10)
    image = jnp.zeros((1, 8, 8, 1))
    expected = linen.learnable_factors(model, jax.random.key(0), image)
    for name in ("convolution", "channel_wise", "pointwise"):
        expected.learn_rate[name]["bias"] = 0.0
    factors = _networks.build(api, (8, 8, 1), 10).factors
    for got, wanted in zip(factors, expected, strict=True):
        assert jax.tree.leaves(got) == jax.tree.leaves(wanted)


def test_factors_of_the_network_reach_the_solver():
    """A parameter whose learning-rate factor is 0 stays, the other learns."""
    data = _data.load_digits()
    network = _networks.Network(
        initialize=lambda _: ({"frozen": jnp.ones(10), "free": jnp.ones(10)}, {}),
        logits=lambda params, stats, images, _: (
            images.mean((1, 2)) * params["free"][None] + params["frozen"][None],
            stats,
        ),
        factors=optim.Factors(
            learn_rate={"frozen": 0.0, "free": 1.0}, l2={"frozen": 1.0, "free": 1.0}
        ),
    )
    learner = Learner(network, data, Options.begin({"batch_size": 8}), 1)
    after = learner.step(learner.begin(seed=0), np.arange(8))
    np.testing.assert_array_equal(after.params["frozen"], 1)
    assert (after.params["free"] != 1).any()


@pytest.mark.parametrize(("images", "steps"), [(8, 1), (9, 2), (15, 2), (16, 2), (28, 4)])
def test_the_last_partial_batch_counts(images, steps):
    split = {"training": np.arange(images)}
    assert steps_per_epoch(split, Options.begin({"batch_size": 8})) == steps


def history(*losses):
    return [{"epoch": i + 1, "validation_loss": loss} for i, loss in enumerate(losses)]


def test_patience_counts_epochs_since_the_lowest_validation_loss():
    parts = {"training": np.arange(100), "validation": np.arange(9)}
    options = Options.begin({"patience": 2, "epochs": 9})
    training = Training(None, parts, options)
    assert not training.is_over([])
    assert not training.is_over(history(3.0, 2.0, 2.5))
    assert training.is_over(history(3.0, 2.0, 2.5, 2.0))
    assert not training.is_over(history(3.0, 2.0, 2.5, 1.0))
    patient = Training(None, parts, Options.begin({"epochs": 4}))
    assert not patient.is_over(history(1.0, 2.0, 3.0))
    assert patient.is_over(history(1.0, 2.0, 3.0, 4.0))
    assert best_epoch(history(3.0, 2.0, 2.0)) == 2


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    write(tmp_path, "config.json", b"old")

    def fail(_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write(tmp_path, "config.json", b"new and longer")
    assert (tmp_path / "config.json").read_bytes() == b"old"


def on_a_terminal(monkeypatch, columns, show):
    """What a terminal of so many columns gets."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(theirs, "w") as terminal:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", terminal)
            patch.setattr(sys, "stderr", terminal)
            show()
        terminal.flush()
        # The last thing shown, since what was written arrives in pieces.
        os.write(theirs, b"end")
        shown = b""
        while not shown.endswith(b"end"):
            shown += os.read(ours, 1 << 16)
    os.close(ours)
    return shown.removesuffix(b"end").decode()


def what_remains(line):
    """What a line shows after all that is written over it."""
    shown = ""
    for part in line.split("\r"):
        shown = part + shown[len(part) :]
    return shown.rstrip()


def rows(epochs):
    quantities = {"loss": 12.25, "accuracy": 1.0}
    for epoch in range(1, epochs + 1):
        scores = {f"{p}_{q}": v for p in ("training", "validation") for q, v in quantities.items()}
        yield {"epoch": float(epoch), **scores}


def test_a_terminal_of_50_columns_keeps_every_epoch_and_shows_a_bar_below(monkeypatch):
    def show():
        with Bar(epochs=100, steps_per_epoch=40, steps_taken=0) as bar:
            bar.compiling()
            for row in rows(2):
                bar.step()
                bar.epoch(row)

    shown = on_a_terminal(monkeypatch, 50, show)
    assert "\rcompiling   0%|" in shown
    assert "epoch   2/100   0%|" in shown
    assert "| 2/4000" in shown
    lines = shown.replace("\r\n", "\n").split("\n")
    assert all(len(part) <= 50 for line in lines for part in line.split("\r"))
    final = [what_remains(line) for line in lines]
    assert [line for line in final if line.startswith("epoch")] == [
        f"epoch   {epoch}/100  12.2500 100.00%  12.2500 100.00%" for epoch in (1, 2)
    ]
    assert any(line.split() == ["loss", "correct"] * 2 for line in final)


def test_without_a_terminal_there_are_lines_alone(base):
    lines = (base / "printed.txt").read_text().splitlines()
    place = lines.index("compiling")
    assert lines[place + 1].split() == ["training", "validation"]
    table = lines[place + 2 : place + 3 + EPOCHS]
    assert len({len(line) for line in table}) == 1
    for line, row in zip(table[1:], read_metrics(base / "run"), strict=True):
        assert line.split()[1] == f"{row['epoch']:.0f}/{EPOCHS}"
        assert line.split()[-2:] == [
            f"{row['validation_loss']:.4f}",
            f"{row['validation_accuracy']:.2%}",
        ]


NAMES = ["$5", "$", "猫", "a class whose name is longer than what fits beside the picture"]


@pytest.mark.parametrize("classes", [["a", "b"], NAMES, [f"class {i}" for i in range(70)]])
def test_confusion_is_drawn_for_few_classes_many_and_strange_names(classes):
    truth = np.arange(len(classes))
    assert draw_confusion(truth, truth[::-1], classes).startswith(b"\x89PNG")


def test_curves_and_filters_are_drawn_for_one_epoch_and_zero_weights():
    row = dict.fromkeys(("training_loss", "validation_loss"), 0.0)
    row |= dict.fromkeys(("training_accuracy", "validation_accuracy"), 1.0) | {"epoch": 1}
    assert draw_curves([row], 1).startswith(b"\x89PNG")
    assert draw_filters({"layer": np.zeros((3, 2, 3, 2, 4))}).startswith(b"\x89PNG")


def test_pictures_do_not_need_pyplot(base):
    assert (base / "run" / "curves.png").is_file()
    assert "matplotlib.pyplot" not in sys.modules
