"""Checks what a wheel holds: ``python .ci/wheel_contents.py WHEEL``.

It must hold the committed files of the package, the compiled library and its metadata, and nothing
else: no tests, no C++ sources.
"""

# ruff: noqa: T201

import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
IMPLEMENTATIONS = "grouped_conv_jax/operation/implementations"
NATIVE = f"{IMPLEMENTATIONS}/native/"
LIBRARIES = {f"{IMPLEMENTATIONS}/libgrouped_conv.{suffix}" for suffix in ("so", "dylib", "dll")}


def main(wheel: str) -> int:
    """Compares the wheel with what git lists and returns the exit status."""
    listed = subprocess.run(
        ["git", "ls-files", "grouped_conv_jax"],
        cwd=ROOT,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout.splitlines()
    expected = {name for name in listed if not name.startswith(NATIVE)}
    names = set(zipfile.ZipFile(wheel).namelist())
    found = {name for name in names if not PurePosixPath(name).parts[0].endswith(".dist-info")}
    library = found & LIBRARIES
    surplus, missing = found - library - expected, expected - found
    print(f"{Path(wheel).name}: {len(found)} files beside the metadata, library {library or None}")
    for word, some in (("does not belong there", surplus), ("is missing", missing)):
        print(*(f"FAILED {name} {word}" for name in sorted(some)), sep="\n", end="")
    if len(library) != 1:
        print("FAILED one compiled library is expected")
    return 1 if surplus or missing or len(library) != 1 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
