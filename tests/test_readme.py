"""What README.md and docs/ say of names, extras and other libraries; examples run as doctests."""

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import grouped_conv_jax
from grouped_conv_jax.benchmarks import report, results
from grouped_conv_jax.linen import GroupedConv2D
from grouped_conv_jax.matlab import GroupedConvolution2DLayer

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = ROOT / "docs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def table(page: str, header: str) -> list[list[str]]:
    """The rows of the table whose header begins so, on a page of docs/."""
    text = (DOCS / page).read_text(encoding="utf-8")
    lines = text[text.index(f"| {header} |") :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_matlab_property_is_in_the_table_once() -> None:
    listed = re.findall(
        r"`(\w+)`", " ".join(row[0] for row in table("how-to/from-matlab.md", "MATLAB property"))
    )

    properties = [name for name in dir(GroupedConvolution2DLayer) if name[0].isupper()]
    assert sorted(listed) == sorted(properties)


def test_every_matlab_property_is_matched_by_a_name_of_the_layer() -> None:
    names = {field.name for field in dataclasses.fields(GroupedConv2D)} | set(dir(GroupedConv2D))
    for _, argument in table("how-to/from-matlab.md", "MATLAB property"):
        assert re.findall(r"\w+", argument)[0] in names


def test_each_command_is_one_line_that_makes_its_own_environment() -> None:
    setup = r'python3 -m venv \.venv && \.venv/bin/pip install --quiet --editable "\.\[(\w+)\]" && '
    commands = re.findall(rf"^{setup}\.venv/bin/(.+)$", README, re.MULTILINE)

    assert commands == [("train", "grouped-conv-jax train"), ("test", "python -m pytest -n 2")]
    assert "grouped-conv-jax" in PROJECT["scripts"]


def test_every_extra_is_in_the_table() -> None:
    extras = [row[0].strip("`") for row in table("install.md", "extra")]

    assert sorted(extras) == sorted(PROJECT["optional-dependencies"])


def test_the_extra_for_the_notebooks_runs_them() -> None:
    (extra,) = (row[0].strip("`") for row in table("install.md", "extra") if "notebooks" in row[1])
    extras = PROJECT["optional-dependencies"]
    needed = list(extras[extra])
    for name in needed:
        if also := re.fullmatch(r"grouped_conv_jax\[(.+)\]", name):
            needed += (part for other in also[1].split(",") for part in extras[other])

    # What they import, what sklearn opens photographs with, and what `jupyter execute` needs.
    assert {"matplotlib", "scikit-learn", "Pillow", "nbclient", "ipykernel"} <= set(needed)


def test_keras_is_as_its_documentation_says() -> None:
    keras = {row[0]: row[-1] for row in table("explanation/comparison.md", "| here")}
    assert keras["stride and dilation together"] == "yes"


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_readme_shows_the_speed_that_is_committed() -> None:
    document = results.from_json((ROOT / "benchmarks/run-1.json").read_text(encoding="utf-8"))
    conditions, summary, _ = report.to_markdown([document]).split("\n\n")

    assert f"\n{conditions}\n\n{summary}\n\n" in README


def test_every_public_name_is_in_the_reference_once() -> None:
    listed = [
        name
        for page in sorted((DOCS / "reference").glob("*.md"))
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    public = []
    for name in grouped_conv_jax.__all__:
        exported = getattr(getattr(grouped_conv_jax, name), "__all__", None)
        public += [f"{name}.{inner}" for inner in exported] if exported else [name]

    assert sorted(listed) == sorted(f"grouped_conv_jax.{name}" for name in public)


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda p: p.stem
)
def test_every_link_to_a_file_leads_to_one(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))

    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_flax_is_as_the_table_says() -> None:
    images = jax.ShapeDtypeStruct((2, 8, 8, 6), jnp.float32)

    def linen(**arguments: Any) -> tuple[int, ...]:
        init = nn.Conv(12, **arguments).init_with_output
        return jax.eval_shape(init, jax.random.key(0), images)[0].shape

    def nnx_(**arguments: Any) -> tuple[int, ...]:
        return nnx.eval_shape(
            lambda x: nnx.Conv(6, 12, **arguments, rngs=nnx.Rngs(0))(x), images
        ).shape

    for shape_of in (linen, nnx_):
        # An integer convolves the last axis alone.
        assert shape_of(kernel_size=3, padding="VALID") == (2, 8, 6, 12)
        assert shape_of(kernel_size=(3, 3), padding="SAME", strides=2) == (2, 4, 4, 12)
        assert shape_of(kernel_size=(3, 3), padding=((1, 2), (0, 3))) == (2, 9, 9, 12)
        for mode in ("REFLECT", "CIRCULAR"):
            assert shape_of(kernel_size=(3, 3), padding=mode) == (2, 8, 8, 12)
        for mode in ("SYMMETRIC", "EDGE"):
            with pytest.raises(RuntimeError, match=mode):
                shape_of(kernel_size=(3, 3), padding=mode)


def test_pytorch_is_as_the_table_says() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch's CPU build is installed on Python 3.11")
    images = torch.ones(2, 6, 8, 8)
    assert torch.nn.Conv2d(6, 12, 3)(images).shape == (2, 12, 6, 6)
    assert torch.nn.Conv2d(6, 12, 3)(images[0]).shape == (12, 6, 6)
    with pytest.raises(RuntimeError, match="3D"):
        torch.nn.Conv2d(6, 12, 3)(images[None])
    with pytest.raises(ValueError, match="strided"):
        torch.nn.Conv2d(6, 12, 3, padding="same", stride=2)
    with pytest.raises(RuntimeError, match="padding"):
        torch.nn.Conv2d(6, 12, 3, padding=(1, 2, 3, 0))(images)
    with pytest.raises(ValueError, match="'zeros'"):
        torch.nn.Conv2d(6, 12, 3, padding=1, padding_mode="symmetric")
