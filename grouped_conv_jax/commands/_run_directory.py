"""The directory of a training run, whose files are written atomically."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grouped_conv_jax.commands._errors import CommandError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CONFIG = "config.json"
METRICS = "metrics.csv"
MODEL = "model.stablehlo"
CHECKPOINT = "checkpoint"
CURVES = "curves.png"
FILTERS = "filters.png"
CONFUSION = "confusion.png"
EXAMPLES = "examples"
LOCK = ".lock"
RUNNING = ".running"
_ALL = (CONFIG, METRICS, MODEL, CHECKPOINT, CURVES, FILTERS, CONFUSION, EXAMPLES)
FORMAT = 2
_KEYS = {"options", "versions"}


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Locks a directory against other training processes; creates it if necessary.

    Raises:
        CommandError: another process holds the lock, or the path is a file.
    """
    if directory.exists() and not directory.is_dir():
        raise CommandError(f"--out must be a directory, got the file {directory}")
    directory.mkdir(parents=True, exist_ok=True)
    with _marked_as_running(directory) if fcntl is None else _locked_by_system(directory):
        yield


@contextlib.contextmanager
def _locked_by_system(directory: Path) -> Iterator[None]:
    """A lock that ends with the process, however that ends."""
    with (directory / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandError(
                f"--out {directory}: another process is training there; "
                "wait until it ends, or choose another directory"
            ) from error
        yield


@contextlib.contextmanager
def _marked_as_running(directory: Path) -> Iterator[None]:
    """A file that only one process can create; a process that is killed leaves it behind."""
    path = directory / RUNNING
    try:
        path.open("x").close()
    except FileExistsError as error:
        raise CommandError(
            f"--out {directory}: another process is training there, or was killed; "
            f"wait for its end, or delete {path} if there is none"
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def check_free(directory: Path) -> None:
    """Raises ``CommandError`` if a new run would overwrite something."""
    if (directory / CONFIG).exists():
        raise CommandError(
            f"--out {directory} already holds a run: continue it with --resume, "
            "or choose another directory"
        )
    for name in _ALL:
        if (directory / name).exists():
            raise CommandError(f"--out {directory} already holds {name}: choose another directory")


def write(directory: Path, name: str, content: bytes) -> None:
    """Writes a file atomically: under a temporary name, which is then renamed."""
    temporary = directory / f".{name}.part"
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / name)


def discard(directory: Path) -> None:
    """Removes the files of a run that failed before it began."""
    for name in (CONFIG, LOCK, RUNNING):
        (directory / name).unlink(missing_ok=True)
    # Keep a directory that holds other files.
    with contextlib.suppress(OSError):
        directory.rmdir()


def write_config(directory: Path, config: dict[str, Any]) -> None:
    """Writes ``config.json``."""
    text = json.dumps({"format": FORMAT, **config}, indent=2, ensure_ascii=False)
    # File names may contain undecodable bytes, which json.loads restores.
    write(directory, CONFIG, f"{text}\n".encode(errors="surrogatepass"))


def find_config(directory: Path) -> dict[str, Any] | None:
    """Reads ``config.json``; returns ``None`` if there is none.

    Raises:
        CommandError: the file was not written by :func:`write_config` of this version.
    """
    path = directory / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise CommandError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT or _KEYS - config.keys():
        raise CommandError(f"{path} is not the configuration of a run of this version")
    return config
