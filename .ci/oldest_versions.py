"""Prints, as constraints for pip, the oldest versions that ``pyproject.toml`` admits."""

# ruff: noqa: T201

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

for requirement in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]):
    if found := re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement):
        print(f"{found[1]}=={found[2]}")
