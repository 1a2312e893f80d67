"""Compiles the native library, for this machine or for another one.

``python native/compile_library.py`` compiles it in place, for work on the sources;
``python native/compile_library.py --wheels dist`` builds a wheel for every target. Both need
``ziglang`` and ``jaxlib`` as ``pyproject.toml`` pins them. Installing needs neither command.
"""

import argparse
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "native"
PACKAGE = ROOT / "grouped_conv_jax"
# Each of these is compiled once for every instruction set, all others once for the baseline.
OF_INSTRUCTION_SETS = ("kernels.cc",)
FLAGS = ("-std=c++20", "-O3", "-fvisibility=hidden", "-fPIC", "-Wall", "-Wextra", "-Werror")
KERNEL_FLAGS = ("-fno-exceptions", "-fno-rtti")


class Target(NamedTuple):
    """A platform that the library is compiled for.

    Attributes:
        triple: the compiler's name of it, with the oldest C library or system that it runs on.
        tag: the wheel's platform.
        library: the file's name.
        instruction_sets: the compiler's name of the processor for each; the baseline first.
    """

    triple: str
    tag: str
    library: str
    instruction_sets: dict[str, str]


_X86_64 = {"baseline": "x86_64", "avx2": "x86_64_v3", "avx512": "x86_64_v4"}
# By the names of sysconfig.get_platform, without the version that macOS puts into its own.
TARGETS = {
    "linux-x86_64": Target(
        "x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64", "libgrouped_conv.so", _X86_64
    ),
    "linux-aarch64": Target(
        "aarch64-linux-gnu.2.17",
        "manylinux_2_17_aarch64",
        "libgrouped_conv.so",
        {"baseline": "generic"},
    ),
    "macosx-arm64": Target(
        "aarch64-macos.11.0",
        "macosx_11_0_arm64",
        "libgrouped_conv.dylib",
        {"baseline": "apple_m1"},
    ),
    "win-amd64": Target("x86_64-windows-gnu", "win_amd64", "libgrouped_conv.dll", _X86_64),
}


class CompilationError(Exception):
    """The library cannot be compiled; the message says why."""


def target(name: str | None = None) -> Target:
    """The target of a name, or this machine's."""
    name = name or re.sub(r"^(macosx)-[\d.]+", r"\1", sysconfig.get_platform())
    if name not in TARGETS:
        raise CompilationError(
            f"the native library is compiled for {', '.join(TARGETS)}, not for {name}"
        )
    return TARGETS[name]


def objects(target: Target, build: Path, sources: Iterable[Path] | None = None) -> list[Path]:
    """Compiles every source to an object file, several at once, and returns the object files."""
    baseline = target.instruction_sets["baseline"]
    commands = {}
    for source in sorted(SOURCES.glob("*.cc")) if sources is None else sources:
        if source.name not in OF_INSTRUCTION_SETS:
            define = f'-DGROUPED_CONV_SOURCES="{digest()}"'
            commands[build / f"{source.stem}.o"] = (f"-mcpu={baseline}", define, source)
            continue
        for name, processor in target.instruction_sets.items():
            define = f"-DINSTRUCTION_SET={name}"
            commands[build / f"{source.stem}-{name}.o"] = (
                f"-mcpu={processor}",
                define,
                *KERNEL_FLAGS,
                source,
            )
    build.mkdir(parents=True, exist_ok=True)
    flags = (*FLAGS, "-isystem", _ffi_headers())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = [
            pool.submit(_compiler, target, *flags, *arguments, "-c", "-o", out)
            for out, arguments in commands.items()
        ]
        for one in compiled:
            one.result()
    return list(commands)


def library(target: Target, build: Path) -> Path:
    """Compiles and links the library below ``build`` and returns where it is."""
    out = build / target.library
    baseline = f"-mcpu={target.instruction_sets['baseline']}"
    _compiler(target, baseline, "-O3", "-shared", "-s", *objects(target, build), "-o", out)
    return out


def digest() -> str:
    """A hash of the sources."""
    found = hashlib.blake2b(digest_size=8)
    for source in sorted([*SOURCES.glob("*.cc"), *SOURCES.glob("*.h")]):
        found.update(source.read_bytes())
    return found.hexdigest()


def _ffi_headers() -> str:
    jaxlib = importlib.util.find_spec("jaxlib")
    if jaxlib is None or not jaxlib.submodule_search_locations:
        raise CompilationError("jaxlib, which has the headers of XLA's FFI, is not installed")
    return os.path.join(jaxlib.submodule_search_locations[0], "include")


def _compiler(target: Target, *arguments: str | Path) -> None:
    """Runs the compiler, whose cache of objects and of its C++ library is kept between builds."""
    command = [sys.executable, "-m", "ziglang", "c++", "-target", target.triple, *arguments]
    cache = {"ZIG_GLOBAL_CACHE_DIR": str(ROOT / "build" / "zig")}
    done = subprocess.run(command, env=cache | os.environ, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        first = next((line for line in lines if "error:" in line), lines[-1] if lines else "")
        raise CompilationError(f"the compiler failed: {first}") from RuntimeError(done.stderr)


def _wheels(directory: str) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", directory, ROOT]
    for name in TARGETS:
        subprocess.run(command, env=os.environ | {"GROUPED_CONV_TARGET": name}, check=True)


def main() -> None:
    """Compiles in place, or builds the wheels."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--wheels", metavar="DIR", help="build a wheel for every target in DIR")
    directory = parser.parse_args().wheels
    if directory:
        _wheels(directory)
    else:
        chosen = target()
        library(chosen, ROOT / "build" / "native").replace(PACKAGE / chosen.library)


if __name__ == "__main__":
    main()
