"""What ``train`` writes, and what a run depends on."""

import csv
import json
import shlex
import sys
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

from grouped_conv_jax import linen
from grouped_conv_jax.commands import _data, main

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
    assert "frozen biases, which batch normalization cancels" in (base / "printed.txt").read_text()


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
    assert "already holds a run: continue it with --resume" in capsys.readouterr().err
    assert (base / "run" / "config.json").read_bytes() == before


def test_nnx_trains_with_sgdm_and_names_unreadable_files(tmp_path, capsys):
    images = draw_images(tmp_path / "images")
    (images / "left" / "broken.png").write_text("no image")
    out = tmp_path / "run"
    options = ["--api=nnx", "--solver=sgdm", "--momentum=0.8", "--schedule=piecewise", "--l2=0"]
    assert main(["train", "--data", str(images), "--out", str(out), *OPTIONS, *options]) == 0
    printed = capsys.readouterr()
    assert "skipped files: 1" in printed.err
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
    assert "the loss is not finite in epoch 1; a lower --learning-rate" in (capsys.readouterr().err)


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


def test_pictures_do_not_need_pyplot(base):
    assert (base / "run" / "curves.png").is_file()
    assert "matplotlib.pyplot" not in sys.modules
