"""``grouped-conv-jax predict``: classifies images with a trained network.

It needs JAX, Pillow and the exported network, but not the code that trained it.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from grouped_conv_jax.commands import _run_directory
from grouped_conv_jax.commands._errors import CommandError, require
from grouped_conv_jax.commands._images import (
    HOW_IMAGES_ARE_READ,
    UnreadableImageError,
    ValueRange,
    as_text,
    printable,
    read_image,
    visible,
)

SUMMARY = "classify images with a trained network"
DESCRIPTION = """\
Classifies images with a network that `train` wrote. Prints one line per image: its
name, the predicted class and its probability, separated by tabs. Control characters in
names, such as newlines, and undecodable bytes are printed as escapes (--json escapes
the latter only). A folder stands for all files in it, except hidden ones, whose names
begin with a dot.
"""
EPILOG = f"""\
{HOW_IMAGES_ARE_READ}
The exit status is 0 if all images were classified, 1 if some could not be read (which
standard error lists), and 2 if --model holds no network.
"""


class Model(NamedTuple):
    """A network that was read from a run's directory.

    Attributes:
        classes: names of the classes.
        image_size: (height, width) of the input images.
        channels: number of channels of the input images.
        value_range: the values to map to 0 and 1 in images whose format defines no range.
        probabilities: maps images ``(1, H, W, C)``, float32 in [0, 1], to ``(1, K)``.
    """

    classes: list[str]
    image_size: tuple[int, int]
    channels: int
    value_range: ValueRange | None
    probabilities: Callable[[np.ndarray], Any]

    def classify(self, path: Path) -> np.ndarray:
        """Returns the probability of each class for the image in a file."""
        pixels = read_image(path, self.image_size, self.channels).to_unit(self.value_range)
        return np.asarray(self.probabilities(pixels[np.newaxis]))[0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="directory that `train` wrote"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a list of objects with the probabilities of all classes",
    )
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE", help="image files, or folders of them"
    )


def run(arguments: argparse.Namespace) -> int:
    """Classifies the images.

    Returns:
        0, or 1 if some images could not be read.

    Raises:
        CommandError: the model cannot be loaded.
    """
    require("PIL", "flatbuffers")
    model = load(arguments.model)
    results: list[dict[str, Any]] = []
    failed = False
    for path in _files(arguments.images):
        try:
            probabilities = model.classify(path)
        except UnreadableImageError as error:
            print(f"{printable(path)}: {error}", file=sys.stderr)
            failed = True
            continue
        best = int(np.argmax(probabilities))
        name, probability = model.classes[best], float(probabilities[best])
        if arguments.json:
            every = dict(zip(model.classes, probabilities.tolist(), strict=True))
            results.append(
                {
                    "image": as_text(path),
                    "class": name,
                    "probability": probability,
                    "probabilities": every,
                }
            )
        else:
            print(f"{printable(path)}\t{name}\t{probability:.4f}")
    if arguments.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    return int(failed)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yields the files, expanding folders; yields an empty folder itself, to report it."""
    for path in paths:
        files = [f for f in visible(path.rglob("*"), path) if f.is_file()] if path.is_dir() else []
        yield from files or [path]


def load(directory: Path) -> Model:
    """Reads the network from a run's directory.

    Raises:
        CommandError: there is no network, it is damaged, or a newer JAX wrote it.
    """
    import jax
    from jax import export

    config = _run_directory.find_config(directory)
    described, network = directory / _run_directory.CONFIG, directory / _run_directory.MODEL
    for path in (described, network):
        if not path.is_file():
            raise CommandError(f"--model {directory} holds no trained network: there is no {path}")
    assert config is not None
    try:
        written_by = tuple(map(int, re.findall(r"\d+", config["versions"]["jax"])[:3]))
        height, width = map(int, config["image_size"])
        classes, channels = list(map(str, config["classes"])), int(config["channels"])
        value_range = config["value_range"] and tuple(map(float, config["value_range"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CommandError(f"{described} is damaged: {type(error).__name__}: {error}") from error
    if written_by > jax.__version_info__:
        raise CommandError(
            f"{network} was written by JAX {config['versions']['jax']}, which is newer than the "
            f"JAX {jax.__version__} here: install that version or a newer one"
        )
    try:
        exported = export.deserialize(bytearray(network.read_bytes()))
        (images,), (scores,) = exported.in_avals, exported.out_avals
        # Compile, to find damage and missing support for this device now.
        exported.call(np.zeros((1, *images.shape[1:]), np.float32))
    # JAX does not document which errors it raises for damaged files.
    except Exception as error:
        raise CommandError(
            f"{network} is damaged, or not for this device: {type(error).__name__}: {error}"
        ) from error
    if (*images.shape[1:], scores.shape[1]) != (height, width, channels, len(classes)):
        raise CommandError(f"{network} and {described} belong to different runs")
    return Model(classes, (height, width), channels, value_range, exported.call)
