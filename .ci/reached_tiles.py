"""Checks that random shapes reach every micro-kernel: ``python .ci/reached_tiles.py [COUNT]``.

The driver is compiled with a record of the functions that are called, for the best instruction set
of this machine. It needs the system's g++ and nm; without them the check says so and passes.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NATIVE = Path(__file__).resolve().parent.parent / "native"
SHARED = ("geometry", "plan", "correlate", "reduce", "exact", "convolution", "parallel")
FLAGS = ("-std=c++20", "-O1", "-fno-pie", "-I.", "-Wno-psabi")
# Templates of which every instance is a micro-kernel.
TILES = re.compile(r"(correlate_tile|reduce_tile|reduce_runs)<")


def instruction_set() -> tuple[str, str]:
    """The best one of this machine and the compiler's name of it."""
    if platform.machine() != "x86_64":
        return "baseline", "native"
    processor = Path("/proc/cpuinfo").read_text()
    for flag, name, march in (("avx512vl", "avx512", "x86-64-v4"), ("avx2", "avx2", "x86-64-v3")):
        if f" {flag} " in processor:
            return name, march
    return "baseline", "x86-64"


def compile_driver(build: Path, name: str, march: str) -> Path:
    """The driver, whose kernels record what is called."""
    own = (f"-march={march}", f"-DINSTRUCTION_SET={name}", "-fno-exceptions")
    sources: dict[str, tuple[str, ...]] = {
        "kernels": (*own, "-finstrument-functions"),
    } | dict.fromkeys(("driver/driver", "driver/reached", *SHARED), ())

    def compiled(source: str) -> str:
        made = str(build / (Path(source).name + ".o"))
        run("g++", *FLAGS, *sources[source], "-c", f"{source}.cc", "-o", made)
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    run("g++", "-no-pie", *objects, "-o", str(build / "driver"), "-pthread")
    return build / "driver"


def run(*command: str, **environment: str) -> str:
    """What a command prints."""
    return subprocess.run(
        command, cwd=NATIVE, env=os.environ | environment, check=True, text=True, stdout=-1
    ).stdout


def main() -> None:
    """Compiles, runs and compares."""
    if not (shutil.which("g++") and shutil.which("nm")):
        print("no g++ and nm: which micro-kernels are reached was not checked")
        return
    name, march = instruction_set()
    with tempfile.TemporaryDirectory() as build:
        driver = compile_driver(Path(build), name, march)
        symbols = run("nm", "-C", str(driver))
        printed = run(
            str(driver), "check", *(sys.argv[1:] or ["1500"]), "7", GROUPED_CONV_INSTRUCTION_SET=name
        )
    called = {int(address, 16) for address in re.findall(r"reached (\S+)", printed)}
    tiles = {
        int(line.split()[0], 16): line.split(maxsplit=2)[2]
        for line in symbols.splitlines()
        if TILES.search(line)
    }
    missed = sorted(tiles[address] for address in tiles.keys() - called)
    print(f"{name}: {len(tiles) - len(missed)} of {len(tiles)} micro-kernels reached")
    if "right" not in printed or missed or not tiles:
        sys.exit("\n".join(["not reached, or wrong:", *missed, *printed.splitlines()[:5]]))


if __name__ == "__main__":
    main()
