"""``predict``: answers of the exported network, without the code that trained it."""

import json
import shutil
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from command_runs import finished  # noqa: F401
from PIL import Image

from grouped_conv_jax import linen
from grouped_conv_jax.commands import main


@pytest.fixture(name="base")
def _base(finished):  # noqa: F811
    return finished


@pytest.fixture
def pictures(base):
    return [str(base / "images" / name) for name in ("left/03.png", "right/04.png", "left/05.png")]


def predict(base, *arguments):
    return main(["predict", "--model", str(base / "run"), *map(str, arguments)])


@pytest.fixture(scope="module")
def expected(finished):  # noqa: F811
    """From a file to the probabilities of the trained module itself."""
    (step,) = (finished / "run" / "checkpoint").iterdir()
    with warnings.catch_warnings():
        # Orbax warns that it takes the devices, too, from the file.
        warnings.filterwarnings("ignore", message="Sharding info not provided")
        variables = ocp.PyTreeCheckpointer().restore(step / "state")["best"]
    variables = jax.tree.map(jnp.asarray, variables)

    def probabilities(path):
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((9, 8), Image.Resampling.BILINEAR)
        x = jnp.asarray(np.asarray(resized)[np.newaxis] / 255, jnp.float32)
        return np.asarray(linen.SeparableNetwork(2).apply(variables, x))[0]

    return probabilities


def test_a_line_for_each_image_has_class_and_probability_of_the_module(
    base, pictures, expected, capsys
):
    assert predict(base, *pictures) == 0
    lines = capsys.readouterr().out.splitlines()
    for path, line in zip(pictures, lines, strict=True):
        name, label, probability = line.split("\t")
        answer = expected(path)
        assert name == path
        assert label == ["left", "right"][answer.argmax()]
        assert float(probability) == pytest.approx(answer.max(), abs=1e-4)


def test_json_has_the_probabilities_of_all_classes(base, pictures, expected, capsys):
    assert predict(base, "--json", *pictures) == 0
    results = json.loads(capsys.readouterr().out)
    assert [result["image"] for result in results] == pictures
    for result, path in zip(results, pictures, strict=True):
        answer = expected(path)
        assert list(result["probabilities"]) == ["left", "right"]
        np.testing.assert_allclose(list(result["probabilities"].values()), answer, rtol=1e-4)
        assert result["probability"] == result["probabilities"][result["class"]]
        assert result["probability"] == max(result["probabilities"].values())


def test_a_bad_image_among_others_is_named_and_the_others_are_classified(
    base, pictures, tmp_path, capsys
):
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    missing = tmp_path / "missing.png"
    assert predict(base, pictures[0], broken, missing, pictures[1]) == 1
    printed = capsys.readouterr()
    assert [line.split("\t")[0] for line in printed.out.splitlines()] == pictures[:2]
    of_broken, of_missing = printed.err.splitlines()
    assert of_broken.startswith(f"{broken}: cannot identify image file")
    assert of_missing.startswith(f"{missing}: ")
    assert "No such file" in of_missing


def test_json_without_a_readable_image_is_an_empty_list(base, tmp_path, capsys):
    assert predict(base, "--json", tmp_path / "missing.png") == 1
    assert json.loads(capsys.readouterr().out) == []


def test_images_of_any_size_and_mode_are_classified(base, tmp_path, capsys):
    paths = []
    for mode, size in (("L", (1, 1)), ("RGBA", (300, 20)), ("CMYK", (9, 8)), ("1", (3, 400))):
        paths.append(tmp_path / f"{mode}.tif")
        Image.new(mode, size).save(paths[-1])
    assert predict(base, *paths) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_a_directory_without_a_network_is_refused(base, tmp_path, capsys):
    def fails_with(message):
        assert main(["predict", "--model", str(tmp_path / "run"), "a.png"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("grouped-conv-jax predict: error: ")
        assert message in error

    fails_with("holds no trained network: there is no")
    (tmp_path / "run").mkdir()
    fails_with("run/config.json")
    config = json.loads((base / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    fails_with("run/model.stablehlo")
    network = (base / "run" / "model.stablehlo").read_bytes()
    for damaged in (b"", b"nothing of the kind", network[:9000], network[:-99]):
        (tmp_path / "run" / "model.stablehlo").write_bytes(damaged)
        fails_with("model.stablehlo is damaged")
    (tmp_path / "run" / "model.stablehlo").write_bytes(network)
    for change in ({"image_size": [9, 8]}, {"channels": 1}, {"classes": ["a", "b", "c"]}):
        (tmp_path / "run" / "config.json").write_text(json.dumps(config | change))
        fails_with("are of different runs")
    for change in ({"image_size": 3}, {"pixel_maximum": "a"}, {"classes": None}):
        (tmp_path / "run" / "config.json").write_text(json.dumps(config | change))
        fails_with("config.json is damaged")
    (tmp_path / "run" / "config.json").write_text("{")
    fails_with("config.json is damaged")


def test_predict_needs_only_the_network_and_the_config(base, pictures, tmp_path, capsys):
    for name in ("config.json", "model.stablehlo"):
        shutil.copy(base / "run" / name, tmp_path)
    assert main(["predict", "--model", str(tmp_path), *pictures]) == 0
    alone = capsys.readouterr().out
    assert predict(base, *pictures) == 0
    assert capsys.readouterr().out == alone


def test_predict_imports_nothing_that_trains(base, pictures):
    script = (
        "import sys; from grouped_conv_jax.commands import main; "
        "assert main(sys.argv[1:]) == 0; print(*sys.modules)"
    )
    arguments = ["predict", "--model", str(base / "run"), *pictures]
    printed = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    ).stdout
    *answers, modules = printed.splitlines()
    assert len(answers) == len(pictures)
    names = set(modules.split())
    roots = {name.partition(".")[0] for name in names}
    assert "jax" in roots
    assert not roots & {"flax", "optax", "orbax", "sklearn", "matplotlib", "tqdm"}
    assert not names & {f"grouped_conv_jax.{name}" for name in ("linen", "nnx", "optim", "matlab")}
    ours = {name for name in names if name.startswith("grouped_conv_jax.commands.")}
    assert ours == {
        f"grouped_conv_jax.commands.{name}"
        for name in (
            *("bench", "predict", "train"),
            *("_errors", "_huge_pages", "_images", "_one_case", "_options"),
            *("_other_process", "_run_directory"),
        )
    }
