"""Compiles the native library, for this machine or for another platform.

``python compile_library.py`` compiles it in place, for work on the sources. With ``--wheels dist``
it builds a wheel for every target. Both need the packages listed under ``[build-system]`` in
``pyproject.toml``. Installing the package needs neither command.
"""

import argparse
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).resolve().parent
PACKAGE = SOURCES.parent
ROOT = PACKAGE.parent.parent.parent
# This source is compiled once per instruction set, all others once for the baseline.
KERNELS = "kernels.cc"
FLAGS = ("-std=c++20", "-O3", "-fvisibility=hidden", "-fPIC", "-Wall", "-Wextra", "-Werror")
KERNEL_FLAGS = ("-fno-exceptions", "-fno-rtti")


class Target(NamedTuple):
    """A platform that the library is compiled for.

    Attributes:
        triple: the compiler's name of the platform, with the oldest supported C library or system.
        tag: the platform tag of the wheel.
        library: the name of the library file.
        instruction_sets: the compiler's processor name for each instruction set, the baseline
            first.
    """

    triple: str
    tag: str
    library: str
    instruction_sets: dict[str, str]


_X86_64 = {"baseline": "x86_64", "avx2": "x86_64_v3", "avx512": "x86_64_v4"}
# The keys are those of sysconfig.get_platform, without the version number on macOS.
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
    """Returns the named target, or the one of this machine."""
    name = name or re.sub(r"^(macosx)-[\d.]+", r"\1", sysconfig.get_platform())
    if name not in TARGETS:
        raise CompilationError(
            f"the native library is compiled for {', '.join(TARGETS)}, not for {name}"
        )
    return TARGETS[name]


def library(target: Target, build: Path, cache: str = "") -> Path:
    """Compiles the library, its sources in parallel, and returns its path.

    Args:
        target: the platform to compile for.
        build: a folder for the object files and the library.
        cache: a folder for the compiler's cache; by default the compiler's own.
    """
    environment = ({"ZIG_GLOBAL_CACHE_DIR": cache} if cache else {}) | os.environ
    build.mkdir(parents=True, exist_ok=True)
    commands = _commands(target)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda command: _compiler(target, build, environment, *command), commands))
    baseline = f"-mcpu={target.instruction_sets['baseline']}"
    link = ("-O3", "-shared", "-s", *(command[-1] for command in commands), "-o", target.library)
    _compiler(target, build, environment, baseline, *link)
    return build / target.library


def _commands(target: Target) -> list[tuple[str | Path, ...]]:
    """The compiler's arguments for each object file, whose name is the last argument."""
    flags = (*FLAGS, "-isystem", _ffi_headers(), f'-DGROUPED_CONV_SOURCES="{digest()}"', "-c")
    commands: list[tuple[str | Path, ...]] = []
    for source in sorted(SOURCES.glob("*.cc")):
        if source.name == KERNELS:
            for name, processor in target.instruction_sets.items():
                own = (f"-mcpu={processor}", f"-DINSTRUCTION_SET={name}", *KERNEL_FLAGS)
                commands.append((*flags, *own, source, "-o", f"{source.stem}-{name}.o"))
        else:
            baseline = (f"-mcpu={target.instruction_sets['baseline']}",)
            commands.append((*flags, *baseline, source, "-o", f"{source.stem}.o"))
    return commands


def digest() -> str:
    """A hash of the sources."""
    result = hashlib.blake2b(digest_size=8)
    for source in sorted([*SOURCES.glob("*.cc"), *SOURCES.glob("*.h")]):
        result.update(source.read_bytes())
    return result.hexdigest()


def _ffi_headers() -> str:
    jaxlib = importlib.util.find_spec("jaxlib")
    if jaxlib is None or not jaxlib.submodule_search_locations:
        raise CompilationError("jaxlib, which has the headers of XLA's FFI, is not installed")
    return os.path.join(jaxlib.submodule_search_locations[0], "include")


def _compiler(
    target: Target, build: Path, environment: dict[str, str], *arguments: str | Path
) -> None:
    # The compiler runs in the folder, since macOS records the path given to the linker.
    command = [sys.executable, "-m", "ziglang", "c++", "-target", target.triple, *arguments]
    done = subprocess.run(command, cwd=build, env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [""]
        first = next((line for line in lines if "error:" in line), lines[-1])
        raise CompilationError(f"the compiler failed: {first}") from RuntimeError(done.stderr)


def _wheels(directory: str) -> None:
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        ROOT,
    ]
    for name in TARGETS:
        subprocess.run(
            [*command, "--wheel-dir", directory],
            env=os.environ | {"GROUPED_CONV_TARGET": name},
            check=True,
        )


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
