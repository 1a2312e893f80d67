"""Runs the code cells of a notebook, without Jupyter: ``python .ci/run_notebook.py NOTEBOOK``."""

import json
import os
import sys
from pathlib import Path
from typing import Any

# Before matplotlib starts: pictures are drawn and not shown.
os.environ.setdefault("MPLBACKEND", "Agg")


def main(path: str) -> None:
    """Runs the cells in order, in one namespace."""
    names: dict[str, Any] = {"__name__": "__main__"}
    notebook = json.loads(Path(path).read_text(encoding="utf-8"))
    for number, cell in enumerate(notebook["cells"], start=1):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path}, cell {number}", "exec"), names)


if __name__ == "__main__":
    main(sys.argv[1])
