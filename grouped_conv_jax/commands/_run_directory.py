"""The directory of a training run. Its files are written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from grouped_conv_jax.commands._errors import CommandError

CONFIG = "config.json"
METRICS = "metrics.csv"
MODEL = "model.stablehlo"
CHECKPOINT = "checkpoint"
CURVES = "curves.png"
FILTERS = "filters.png"
CONFUSION = "confusion.png"
_ALL = (CONFIG, METRICS, MODEL, CHECKPOINT, CURVES, FILTERS, CONFUSION)
FORMAT = 1
_KEYS = {"classes", "image_size", "channels", "pixel_maximum", "options", "images_sha256"}


def check_free(directory: Path) -> None:
    """Raises ``CommandError`` where a new run would overwrite something."""
    if directory.exists() and not directory.is_dir():
        raise CommandError(f"--out must be a directory, got the file {directory}")
    if (directory / CONFIG).exists():
        raise CommandError(
            f"--out {directory} already holds a run: go on with it by --resume, "
            "or name another directory"
        )
    for name in _ALL:
        if (directory / name).exists():
            raise CommandError(f"--out {directory} already holds {name}: name another directory")


def write(directory: Path, name: str, content: bytes) -> None:
    """Writes a file under another name and renames it."""
    temporary = directory / f".{name}.part"
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / name)


def write_config(directory: Path, config: dict[str, Any]) -> None:
    """Writes ``config.json``."""
    text = json.dumps({"format": FORMAT, **config}, indent=2, ensure_ascii=False)
    # A file may have a name that is no text; json.loads undoes this.
    write(directory, CONFIG, f"{text}\n".encode(errors="surrogatepass"))


def find_config(directory: Path) -> dict[str, Any] | None:
    """Reads ``config.json``, or returns ``None`` where there is none.

    Raises:
        CommandError: it is not what :func:`write_config` wrote.
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
