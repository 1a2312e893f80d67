"""Loads the native library and registers its kernels with XLA, at the first use.

The build puts the library beside this file, or else a text that says why there is none. XLA decides
itself whether the library suits the jaxlib that is installed: it refuses to register handlers for
an interface that it does not know.

The names of the custom calls hold a hash of the library's sources. A program in the persistent
compilation cache that was compiled for other kernels is then not found, where under a constant name
it would call these.
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
# Beside the package in a source tree, and nowhere else.
_SOURCES = Path(__file__).parent / "native"

_lock = threading.Lock()
# The library, or why it cannot be used; None until it is asked for.
_loaded: ctypes.CDLL | str | None = None
_warned = False


class _UnavailableError(Exception):
    pass


def status() -> str | None:
    """Why the library cannot be used, or ``None`` if it can. The first call loads it.

    Raises:
        ValueError: the environment variable names no instruction set of this processor.
    """
    loaded = _load()
    return loaded if isinstance(loaded, str) else None


def warn_if_unavailable() -> None:
    """Warns that the library cannot be used, and why, the first time.

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

    Only executables that were serialized and that another process loads need this. It starts JAX's
    CPU backend, so it comes after ``jax.distributed.initialize``.

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
    """The instruction sets that this processor can run, the fastest last."""
    return _instruction_sets(_library())


def instruction_set() -> str:
    """The instruction set in use."""
    return _text(_library(), "grouped_conv_instruction_set")


def use(name: str) -> None:
    """Uses an instruction set from the next call of a kernel on, in compiled programs too."""
    _use(_library(), "name", name)


def scratch_bytes() -> int:
    """The bytes of scratch memory that all threads hold together."""
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
        # XLA rejects unsuitable handlers at once only if the backend has been started. It would
        # otherwise reject them when it starts, and then there would be no CPU backend.
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
    """Warns in an editable installation whose sources have changed since it was compiled."""
    script = _SOURCES / "compile_library.py"
    # What says how the library is compiled also says from which sources.
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


def _use(library: ctypes.CDLL, what: str, name: str) -> None:
    name = _checks.word(what, name, _instruction_sets(library))
    library.grouped_conv_use(name.encode())


def _text(library: ctypes.CDLL, function: str) -> str:
    found = getattr(library, function)
    found.restype = ctypes.c_char_p
    return str(found().decode())
