"""``predict``: answers of the exported network, without the code that trained it."""

import json
import os
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
        fails_with("belong to different runs")
    for change in ({"image_size": 3}, {"value_range": 3}, {"classes": None}):
        (tmp_path / "run" / "config.json").write_text(json.dumps(config | change))
        fails_with("config.json is damaged")
    (tmp_path / "run" / "config.json").write_text("{")
    fails_with("config.json is damaged")


def test_a_network_of_a_newer_jax_is_refused_with_that_reason(base, pictures, tmp_path, capsys):
    config = json.loads((base / "run" / "config.json").read_text())
    newer = ".".join(str(number + 1) for number in jax.__version_info__[:2])
    config["versions"]["jax"] = f"{newer}.dev1"
    (tmp_path / "config.json").write_text(json.dumps(config))
    network = (base / "run" / "model.stablehlo").read_bytes()
    for content in (network, b"a format of the future"):
        (tmp_path / "model.stablehlo").write_bytes(content)
        assert main(["predict", "--model", str(tmp_path), *pictures]) == 2
        error = capsys.readouterr().err
        assert f"by JAX {newer}.dev1, which is newer than the JAX {jax.__version__}" in error
        assert "damaged" not in error


def test_a_folder_stands_for_its_images(base, tmp_path, capsys):
    folder, other = base / "images", tmp_path / "folder"
    assert predict(base, folder) == 0
    names = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [str(path) for path in sorted(folder.glob("*/*.png"))]
    (other / ".hidden").mkdir(parents=True)
    shutil.copy(folder / "left" / "03.png", other / "a.png")
    shutil.copy(folder / "left" / "03.png", other / ".hidden" / "b.png")
    (other / "notes.txt").write_text("no image")
    assert predict(base, other) == 1
    printed = capsys.readouterr()
    assert [line.split("\t")[0] for line in printed.out.splitlines()] == [str(other / "a.png")]
    assert printed.err.startswith(f"{other / 'notes.txt'}: cannot identify")


def test_a_folder_without_files_is_named(base, tmp_path, capsys):
    assert predict(base, tmp_path) == 1
    assert capsys.readouterr().err.startswith(f"{tmp_path}: ")


def test_a_name_with_newline_and_tab_stays_on_its_line(base, tmp_path, capsys):
    path = tmp_path / "a\nb\t\x1b[31m猫.png"
    shutil.copy(base / "images" / "left" / "03.png", path)
    assert predict(base, path) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split("\t")[0] == f"{tmp_path}/a\\nb\\t\\x1b[31m猫.png"
    # JSON has escapes of its own.
    assert predict(base, "--json", path) == 0
    assert json.loads(capsys.readouterr().out)[0]["image"] == str(path)


def test_a_reader_that_stops_is_no_failure(base, pictures):
    """As in ``predict ... | head -1``."""
    script = "import sys; from grouped_conv_jax.commands import main; sys.exit(main(sys.argv[1:]))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", script, "predict", "--model", str(base / "run"), *pictures],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_values_without_a_range_are_mapped_as_in_training(base, tmp_path, capsys):
    for name in ("config.json", "model.stablehlo"):
        shutil.copy(base / "run" / name, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    random = np.random.default_rng(0).integers(0, 256, (8, 9)).astype(np.uint8)
    Image.fromarray(random).save(tmp_path / "8.png")
    # The same image in other units.
    Image.fromarray(random.astype(np.float32) * 4 - 100).save(tmp_path / "32.tif")
    (tmp_path / "config.json").write_text(json.dumps(config | {"value_range": [-100, 920]}))
    files = [str(tmp_path / name) for name in ("8.png", "32.tif")]
    assert main(["predict", "--json", "--model", str(tmp_path), *files]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["probability"] == pytest.approx(second["probability"], rel=1e-5)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["predict", "--model", str(tmp_path), *files]) == 1
    assert "32.tif: has 32-bit values, for which there is no range" in capsys.readouterr().err


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
            *("_other_process", "_processes", "_program", "_run_directory"),
        )
    }
