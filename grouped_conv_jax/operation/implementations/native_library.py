"""Loads the native library and registers its kernels with XLA, on first use.

The build places the library beside this file, or else a text file with the reason why there is
none. XLA checks whether the library is compatible with the installed jaxlib: it refuses to register
handlers for an unknown interface version.

The names of the custom calls contain a hash of the library's sources, so that a cached program
never calls kernels compiled from other sources.
"""

import ctypes
import os
import runpy
import sys
import threading
import warnings
from pathlib import Path

import jax
import jaxlib.version

from grouped_conv_jax import _checks
from grouped_conv_jax.operation._description import Role

VARIABLE = "GROUPED_CONV_INSTRUCTION_SET"

_SUFFIX = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")
_PATH = Path(__file__).with_name(f"libgrouped_conv.{_SUFFIX}")
# Exists in a source tree only.
_SOURCES = Path(__file__).parent / "native"

_lock = threading.Lock()
# The library, or the reason why it cannot be used; None before the first use.
_loaded: ctypes.CDLL | str | None = None
_warned = False


class _UnavailableError(Exception):
    pass


def status() -> str | None:
    """Returns why the library cannot be used, or ``None`` if it can. The first call loads it.

    Raises:
        ValueError: the environment variable names no instruction set of this processor.
    """
    loaded = _load()
    return loaded if isinstance(loaded, str) else None


def warn_if_unavailable() -> None:
    """Warns once if the library cannot be used, and gives the reason.

    Raises:
        ValueError: as :func:`status`.
    """
    global _warned
    reason = status()
    with _lock:
        warn, _warned = reason is not None and not _warned, _warned or reason is not None
    if warn:
        warnings.warn(
            f"grouped_conv_jax runs without its native kernels, which are much faster: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )


def register_native_targets() -> None:
    """Registers the custom calls of the native kernels with XLA.

    Only a process that loads serialized executables needs this. It starts JAX's CPU backend, so
    call it after ``jax.distributed.initialize``.

    Raises:
        RuntimeError: the native library cannot be used; the message says why.
        ValueError: the environment variable ``GROUPED_CONV_INSTRUCTION_SET`` names no instruction
            set of this processor.
    """
    _library()


def target(role: Role) -> str:
    """The name of the custom call that computes a role."""
    return _target(_library(), role)


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that this processor supports, the fastest last."""
    return _instruction_sets(_library())


def instruction_set() -> str:
    """The instruction set in use."""
    return _text(_library(), "grouped_conv_instruction_set")


def use(name: str) -> None:
    """Selects the instruction set for all further kernel calls, also in compiled programs."""
    _use(_library(), "name", name)


def scratch_bytes() -> int:
    """The scratch memory of all threads together, in bytes."""
    count = _library().grouped_conv_scratch_bytes
    count.restype = ctypes.c_long
    return int(count())


def _load() -> ctypes.CDLL | str:
    global _loaded
    with _lock:
        if _loaded is None:
            try:
                _loaded = _open()
            except _UnavailableError as error:
                _loaded = str(error)
        return _loaded


def _library() -> ctypes.CDLL:
    loaded = _load()
    if isinstance(loaded, str):
        raise RuntimeError(f"the native kernels cannot be used: {loaded}")
    return loaded


def _open() -> ctypes.CDLL:
    if not _PATH.exists():
        why = _PATH.with_suffix(".missing")
        reason = why.read_text("utf-8") if why.exists() else "it was not built; pip builds it"
        raise _UnavailableError(f"there is no native library: {reason}")
    try:
        library = ctypes.CDLL(str(_PATH))
        chosen = os.environ.get(VARIABLE)
        if chosen is not None:
            _use(library, f"the environment variable {VARIABLE}", chosen)
        # A running backend rejects incompatible handlers at registration. A backend started later
        # would fail to start because of them.
        jax.local_devices(backend="cpu")
        for role in Role:
            handler = jax.ffi.pycapsule(getattr(library, _symbol(role)))
            jax.ffi.register_ffi_target(_target(library, role), handler, platform="cpu")
    except (OSError, AttributeError, RuntimeError) as error:
        raise _UnavailableError(
            f"{_PATH.name} cannot be used with jaxlib {jaxlib.version.__version__}: {error}"
        ) from error
    _warn_if_stale(_text(library, "grouped_conv_sources"))
    return library


def _warn_if_stale(compiled: str) -> None:
    """Warns in an editable installation if the sources have changed since the compilation."""
    script = _SOURCES / "compile_library.py"
    # The script that compiles the library also computes the hash of its sources.
    if script.exists() and runpy.run_path(str(script))["digest"]() != compiled:
        warnings.warn(
            f"{_PATH.name} was compiled from other sources than those in {_SOURCES}; "
            f"python {script} compiles it again",
            RuntimeWarning,
            stacklevel=2,
        )


def _symbol(role: Role) -> str:
    return f"grouped_conv_{role.name.lower()}"


def _target(library: ctypes.CDLL, role: Role) -> str:
    return f"{_symbol(role)}_{_text(library, 'grouped_conv_sources')}"


def _instruction_sets(library: ctypes.CDLL) -> tuple[str, ...]:
    return tuple(_text(library, "grouped_conv_instruction_sets").split())


def _use(library: ctypes.CDLL, argument: str, name: str) -> None:
    name = _checks.word(argument, name, _instruction_sets(library))
    library.grouped_conv_use(name.encode())


def _text(library: ctypes.CDLL, function: str) -> str:
    symbol = getattr(library, function)
    symbol.restype = ctypes.c_char_p
    return str(symbol().decode())
