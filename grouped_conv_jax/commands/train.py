"""``grouped-conv-jax train``: trains the channel-wise separable network on images."""

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from grouped_conv_jax.commands import _options, _processes, _run_directory
from grouped_conv_jax.commands._errors import CommandError, require
from grouped_conv_jax.commands._images import HOW_IMAGES_ARE_READ
from grouped_conv_jax.commands._options import Options

_DEFAULT = Options()
SUMMARY = "train the channel-wise separable network on images"
DESCRIPTION = """\
Trains the channel-wise separable network (grouped_conv_jax.linen.SeparableNetwork,
grouped_conv_jax.nnx.SeparableNetwork) on images: scikit-learn's 1,797 handwritten
digits, or a folder of your own. 15 % of each class are held out for validation and
15 % for test. The parameters of the epoch with the lowest validation loss are kept.
The biases in front of the batch normalizations stay 0 (learning-rate factor 0): these
cancel them, and only rounding errors would move them.
"""
EPILOG = f"""\
{HOW_IMAGES_ARE_READ}
what is written to --out:
  config.json       options, classes, image size, scaling of the pixels, results, and
                    the versions of JAX, jaxlib, Flax and this package
  metrics.csv       loss and accuracy of each epoch
  curves.png        the same as curves
  filters.png       the filters of the first two convolutions, by group
  confusion.png     which test images were taken for what
  model.stablehlo   the network for `predict`, for CPU, CUDA and TPU
  examples/         a few test images, to try `predict` on
  checkpoint/       all that --resume needs, in Orbax's format

Every batch is spread over all devices of JAX. Over several processes, on one machine or
more, all need the same options and images; process 0 alone reads and writes --out. A
signal to one of them stops all.

Ctrl-C and SIGTERM save and stop, with the exit status 130 or 143. `train --resume --out
DIR` goes on, after these or any other end, and reaches the results of a run that was
never interrupted (on a GPU, to the last digit, under
XLA_FLAGS=--xla_gpu_deterministic_ops=true).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options. Those of the run are absent where not given, so that --resume can tell."""
    _add_data(parser.add_argument_group("images"))
    _add_training(parser.add_argument_group("training"))
    where = parser.add_argument_group("run")
    where.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory for the results (default: runs/digits, or runs/ and the name of --data)",
    )
    where.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out and with its options; --epochs may be another",
    )
    _add_processes(parser.add_argument_group("several processes, one command each"))


def _add(group: argparse._ArgumentGroup, name: str, help: str, **kwargs: Any) -> None:
    group.add_argument(name, help=help, default=argparse.SUPPRESS, **kwargs)


def _add_data(group: argparse._ArgumentGroup) -> None:
    height, width = _options.IMAGE_SIZE
    size = (
        "pixels to which the images of --data are resized, height first "
        f"(default: {height}x{width})"
    )
    seed = (
        "seed of the split, of the first parameters and of the order of the images "
        f"(default: {_DEFAULT.seed})"
    )
    folder = "folder of images, one subfolder a class (default: the digits)"
    _add(group, "--data", folder, metavar="DIR")
    _add(group, "--image-size", size, type=_options.image_size, metavar="N|HxW")
    _add(group, "--seed", seed, type=_options.seed, metavar="N")


def _add_training(group: argparse._ArgumentGroup) -> None:
    rates = ", ".join(f"{rate:g} for {name}" for name, rate in _options.LEARNING_RATES.items())
    count: dict[str, Any] = {"type": _options.positive_integer, "metavar": "N"}
    solvers = tuple(_options.LEARNING_RATES)
    epochs = f"passes over the training images (default: {_DEFAULT.epochs})"
    rate = f"first learning rate (default: {rates})"
    l2 = f"L2 regularization (default: {_DEFAULT.l2:g})"
    momentum = f"momentum of sgdm (default: {_options.MOMENTUM})"
    schedule = (
        f"piecewise multiplies the learning rate by {_options.DROP_FACTOR} every "
        f"{_options.DROP_PERIOD} epochs (default: {_DEFAULT.schedule})"
    )
    patience = "stop after N epochs without a lower validation loss (default: never)"
    _add(group, "--api", f"Flax API (default: {_DEFAULT.api})", choices=("linen", "nnx"))
    _add(group, "--solver", f"(default: {_DEFAULT.solver})", choices=solvers)
    _add(group, "--learning-rate", rate, type=_options.positive, metavar="RATE")
    _add(group, "--schedule", schedule, choices=("none", "piecewise"))
    _add(group, "--l2", l2, type=_options.nonnegative, metavar="FACTOR")
    _add(group, "--momentum", momentum, type=_options.fraction, metavar="M")
    _add(group, "--epochs", epochs, **count)
    _add(group, "--batch-size", f"images in a step (default: {_DEFAULT.batch_size})", **count)
    _add(group, "--patience", patience, **count)


def _add_processes(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--coordinator",
        type=_options.address,
        metavar="HOST:PORT",
        help="address where process 0 listens, the same for all",
    )
    group.add_argument(
        "--processes", type=_options.positive_integer, metavar="N", help="how many there are"
    )
    group.add_argument(
        "--process-id", type=_options.process_id, metavar="I", help="which one this is, from 0"
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains, or goes on with it.

    Returns:
        0, 130 after Ctrl-C, or 143 after SIGTERM.

    Raises:
        CommandError: an option or the data are wrong, or the loss is no finite number any more.
    """
    given = {name: getattr(arguments, name) for name in _options.NAMES if name in arguments}
    if "data" in given:
        given["data"] = os.path.abspath(given["data"])
    out = arguments.out or Path("runs", Path(given.get("data", "digits")).name)
    _join(arguments)
    _require_modules(digits="data" not in given and not arguments.resume)
    _check_alike(given | {"data": "data" in given, "resume": arguments.resume})
    with contextlib.ExitStack() as held:
        # What the first process finds holds for all.
        found, stored = _processes.from_first(lambda: _begin(out, arguments.resume, given, held))
        options = Options.from_json(found)
        if "data" in given:
            # Another machine may have the images elsewhere.
            options = dataclasses.replace(options, data=given["data"])

        from grouped_conv_jax.commands import _run

        return _run.execute(out, options, stored)


def _join(arguments: argparse.Namespace) -> None:
    """Connects with the other processes, if there are any."""
    place = (arguments.coordinator, arguments.processes, arguments.process_id)
    if place == (None, None, None):
        return
    if None in place:
        raise CommandError("--coordinator, --processes and --process-id belong together")
    if arguments.process_id >= arguments.processes:
        raise CommandError(
            f"--process-id must be less than --processes {arguments.processes}, "
            f"got {arguments.process_id}"
        )
    _processes.join(*place)


def _require_modules(digits: bool) -> None:
    require("matplotlib", "flatbuffers", "PIL", *(["sklearn.datasets"] if digits else []))
    if sys.stderr.isatty():
        require("tqdm")


def _check_alike(given: dict[str, Any]) -> None:
    """Raises ``CommandError`` in all processes unless all were given the same options."""
    words = json.dumps(given, sort_keys=True)
    first = _processes.from_first(lambda: words)

    def compare() -> None:
        if words != first:
            raise CommandError(f"all processes need the same options, {first}; got {words}")

    _processes.together(compare)


def _begin(
    out: Path, resume: bool, given: dict[str, Any], held: contextlib.ExitStack
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Locks the directory, and returns the options and ``config.json`` of a run that goes on."""
    stored = _run_directory.find_config(out) if resume else None
    if stored is not None:
        options = Options.from_json(stored["options"]).resume(given)
    elif resume:
        raise CommandError(
            f"--resume needs a run to go on with, and there is no {out / _run_directory.CONFIG}; "
            "name the run's directory by --out, or leave --resume out to begin a run"
        )
    else:
        options = Options.begin(given)
    held.enter_context(_run_directory.locked(out))
    if stored is None:
        _run_directory.check_free(out)
    return options.to_json(), stored
