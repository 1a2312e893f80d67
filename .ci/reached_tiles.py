"""Checks that random shapes reach every micro-kernel: ``python .ci/reached_tiles.py``.

The driver is compiled with a record of the functions that are called, for AVX-512, whose micro-
kernels are the most. It needs that, and the system's g++ and nm; without them the check says so and
passes.
"""

# ruff: noqa: T201

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NATIVE = (
    Path(__file__).resolve().parent.parent / "grouped_conv_jax/operation/implementations/native"
)
# Random shapes of each of at most so many seeds.
SHAPES, SEEDS = "2000", 8
SHARED = ("geometry", "plan", "correlate", "reduce", "exact", "convolution", "parallel")
FLAGS = ("-std=c++20", "-O1", "-fno-pie", "-I.", "-Wno-psabi")
# Templates of which every instance is a micro-kernel.
TILES = re.compile(r"(correlate_tile|reduce_tile|reduce_runs)<")
# Several vectors of merged groups have whole vectors of sources, for otherwise groups are merged
# differently; so there are multiples of eight or four numbers.
NEVER = re.compile(r"reduce_tile<float, (2l, [12346]l, 3l|4l, [1236]l, [23]l)>")


def compile_driver(build: Path) -> Path:
    """The driver, whose kernels record what is called."""
    own = ("-march=x86-64-v4", "-DINSTRUCTION_SET=avx512", "-fno-exceptions")
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


def run(*command: str) -> str:
    """What a command prints."""
    done = subprocess.run(command, cwd=NATIVE, check=True, text=True, stdout=subprocess.PIPE)
    return done.stdout


def main() -> None:
    """Compiles, runs and compares."""
    processor = Path("/proc/cpuinfo")
    has_avx512 = processor.exists() and " avx512vl " in processor.read_text()
    if not (has_avx512 and shutil.which("g++") and shutil.which("nm")):
        print("no AVX-512, g++ or nm: which micro-kernels are reached was not checked")
        return
    with tempfile.TemporaryDirectory() as build:
        driver = str(compile_driver(Path(build)))
        missed = {
            int(line.split()[0], 16): line.split(maxsplit=2)[2]
            for line in run("nm", "-C", driver).splitlines()
            if TILES.search(line) and not NEVER.search(line)
        }
        count = len(missed)
        wrong = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            checks = [pool.submit(run, driver, "check", SHAPES, str(i + 1)) for i in range(SEEDS)]
            for check in checks:
                if check.cancelled():
                    continue
                printed = check.result()
                for address in re.findall(r"reached (\S+)", printed):
                    missed.pop(int(address, 16), None)
                wrong += [] if "right" in printed else printed.splitlines()[:5]
                if wrong or not missed:
                    pool.shutdown(wait=False, cancel_futures=True)
    print(f"{count - len(missed)} of {count} micro-kernels reached")
    if wrong or missed or not count:
        sys.exit("\n".join(["not reached, or wrong:", *missed.values(), *wrong]))


if __name__ == "__main__":
    main()
