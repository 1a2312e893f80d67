"""The notebooks run from top to bottom, and the output committed with them is theirs."""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


class Shown(NamedTuple):
    """What a cell shows, apart from what differs between machines: numbers, and how pictures look.

    Attributes:
        stdout: the text, with ``#`` for each number and the spaces that align it.
        stderr: warnings and the like.
        pictures: how many.
        others: the kinds of all other output.
    """

    stdout: str
    stderr: str
    pictures: int
    others: list[str]

    @classmethod
    def by(cls, cell: Any) -> "Shown":
        text = {"stdout": "", "stderr": ""}
        pictures, others = 0, []
        for output in cell.outputs:
            if output.output_type == "stream":
                text[output.name] += output.text
            elif "image/png" in output.get("data", {}):
                pictures += 1
            else:
                others.append(output.output_type)
        numbers = r" *\d+(\.\d+)?(e[-+]\d+)?"
        return cls(re.sub(numbers, "#", text["stdout"]), text["stderr"], pictures, others)


def read(path: Path) -> Any:
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_the_three_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "01_quickstart",
        "02_padding",
        "03_learning_rate_and_l2_factors",
    ]


@pytest.mark.slow
@each_notebook
def test_a_notebook_runs_and_shows_what_was_committed_with_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel is this environment's and has nobody's own start-up files.
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    # In a notebook, pictures are drawn in the notebook.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    committed = [Shown.by(cell) for cell in code_cells(read(path))]
    notebook = read(path)
    for cell in code_cells(notebook):
        cell.update(outputs=[], execution_count=None)

    NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=300,
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()

    shown = [Shown.by(cell) for cell in code_cells(notebook)]
    assert "".join(cell.stderr for cell in shown) == ""
    assert sum(cell.pictures for cell in shown) >= 3
    assert shown == committed


@each_notebook
def test_a_committed_notebook_has_run_in_order_and_names_no_machine(path: Path) -> None:
    notebook = read(path)
    texts = [str(notebook.metadata)]
    for cell in notebook.cells:
        texts += [cell.source, str(cell.metadata)]
        texts += [output.get("text", "") for output in cell.get("outputs", [])]

    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert notebook.metadata.kernelspec.name == "python3"
    assert not re.findall(r"/(?:home|root|tmp|Users)/\S*|[A-Z]:\\\S*", "\n".join(texts))


def test_the_notebooks_take_less_than_a_mebibyte() -> None:
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 2**20
