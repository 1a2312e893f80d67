"""The native library is loaded at its first use, and what cannot be loaded is said once."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import textwrap
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import pytest

from grouped_conv_jax import register_native_targets
from grouped_conv_jax.operation.implementations import native_library

PROCESSOR = Path("/proc/cpuinfo")
# As Linux calls the parts of x86-64-v3 and of x86-64-v4.
AVX2 = {"avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm"}
AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
VARIABLE = "GROUPED_CONV_INSTRUCTION_SET"


@pytest.fixture(autouse=True)
def same_instruction_set():
    before = native_library.instruction_set()
    yield
    native_library.use(before)


@pytest.fixture
def not_loaded(monkeypatch):
    """As in a process that has not used the library."""
    monkeypatch.setattr(native_library, "_loaded", None)
    monkeypatch.setattr(native_library, "_warned", False)


@pytest.fixture
def missing(monkeypatch, tmp_path, not_loaded):  # noqa: ARG001
    """Where the library should be and is not."""
    monkeypatch.setattr(native_library, "_PATH", tmp_path / "libgrouped_conv.so")
    return tmp_path / "libgrouped_conv.so"


def test_the_installed_package_has_the_library():
    assert native_library.status() is None
    native_library.warn_if_unavailable()
    register_native_targets()


def test_importing_loads_nothing_native_and_registering_does():
    code = """
        import sys
        events = []
        sys.addaudithook(lambda *event: events.append(str(event)) if "dlopen" in event[0] else None)
        from grouped_conv_jax import *
        assert not any("libgrouped_conv" in event for event in events), events
        register_native_targets()
        assert sum("libgrouped_conv" in event for event in events) == 1, events
    """
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], check=True)


@pytest.mark.skipif(not PROCESSOR.exists(), reason="/proc/cpuinfo is Linux's")
def test_the_instruction_sets_are_those_that_the_processor_has():
    expected = ("baseline",)
    if platform.machine() == "x86_64":
        flags = next(line for line in PROCESSOR.read_text().splitlines() if line[:5] == "flags")
        has = set(flags.split())
        expected += ("avx2",) * (has >= AVX2) + ("avx512",) * (has >= AVX2 | AVX512)
    assert native_library.instruction_sets() == expected


def test_the_fastest_instruction_set_is_used_and_each_can_be():
    if VARIABLE not in os.environ:
        assert native_library.instruction_set() == native_library.instruction_sets()[-1]
    for name in native_library.instruction_sets():
        native_library.use(name)
        assert native_library.instruction_set() == name


@pytest.mark.usefixtures("not_loaded")
def test_the_environment_forces_an_instruction_set(monkeypatch):
    monkeypatch.setenv(VARIABLE, "baseline")
    assert native_library.instruction_set() == "baseline"


@pytest.mark.usefixtures("not_loaded")
@pytest.mark.parametrize("wrong", ["neon", "", "avx512 avx2"])
def test_an_unknown_instruction_set_is_refused_with_the_names_there_are(wrong, monkeypatch):
    monkeypatch.setenv(VARIABLE, wrong)
    for ask in (native_library.status, register_native_targets):
        with pytest.raises(
            ValueError, match=f"{VARIABLE} must be one of 'baseline'.* got '{wrong}'"
        ):
            ask()


def test_a_library_that_was_not_built_is_reported_with_the_builds_reason(missing):
    missing.with_suffix(".missing").write_text("no compiler for riscv64")
    assert native_library.status() == "there is no native library: no compiler for riscv64"
    with pytest.raises(RuntimeError, match=r"cannot be used: .*: no compiler for riscv64"):
        register_native_targets()


def test_a_library_that_is_not_there_is_warned_of_once(missing):
    del missing
    with pytest.warns(RuntimeWarning, match="without its native kernels.* it was not built"):
        native_library.warn_if_unavailable()
    with warnings.catch_warnings(action="error"):
        native_library.warn_if_unavailable()


@pytest.mark.usefixtures("not_loaded")
def test_a_library_of_other_sources_than_those_beside_it_is_warned_of(monkeypatch, tmp_path):
    with warnings.catch_warnings(action="error"):
        assert native_library.status() is None
    sources = shutil.copytree(native_library._SOURCES, tmp_path / "native")
    with open(sources / "kernels.h", "a") as header:
        header.write("// changed since")
    monkeypatch.setattr(native_library, "_SOURCES", sources)
    monkeypatch.setattr(native_library, "_loaded", None)
    with pytest.warns(RuntimeWarning, match="compiled from other sources than those in"):
        assert native_library.status() is None


def test_a_file_that_is_no_library_is_reported(missing):
    missing.write_bytes(b"not a library")
    assert "libgrouped_conv.so cannot be used with jaxlib" in native_library.status()


@pytest.mark.usefixtures("not_loaded")
def test_a_library_that_xla_refuses_is_reported(monkeypatch):
    def refuse(*_, **__):
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: API version (1.5) is incompatible")

    monkeypatch.setattr(jax.ffi, "register_ffi_target", refuse)
    assert "INVALID_ARGUMENT: API version (1.5)" in native_library.status()


@pytest.mark.usefixtures("not_loaded")
def test_threads_that_use_it_first_load_it_once(monkeypatch):
    opened, load = [], ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", lambda name: opened.append(name) or load(name))
    start = threading.Barrier(8, timeout=60)

    def use_it(_):
        start.wait()
        return native_library.status()

    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(use_it, range(8)))
    assert len(opened) == 1
