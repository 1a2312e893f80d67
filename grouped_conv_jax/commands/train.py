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
digits, or a folder of your own. Holds out 15 % of each class for validation and 15 %
for test, and keeps the parameters of the epoch with the lowest validation loss. Freezes
the biases in front of batch normalizations at 0 (learning-rate factor 0), because the
normalization cancels them and their gradients are only rounding errors.
"""
EPILOG = f"""\
{HOW_IMAGES_ARE_READ}
files in --out:
  config.json       options, classes, image size, scaling of the pixels, results, and
                    the versions of JAX, jaxlib, Flax and this package
  metrics.csv       loss and accuracy of each epoch
  curves.png        plot of metrics.csv
  filters.png       the filters of the first two convolutions, by group
  confusion.png     confusion matrix of the test images
  model.stablehlo   the network for `predict`, for CPU, CUDA and TPU
  examples/         a few test images, to try `predict` on
  checkpoint/       the state for --resume, in Orbax's format

Each batch is sharded over all devices of JAX. Several processes, on one or more
machines, must have the same options and images; only process 0 reads and writes --out.
A signal to one process stops all of them.

Ctrl-C and SIGTERM save the run and stop it with exit status 130 or 143. `train --resume
--out DIR` continues an interrupted or killed run and reaches the result of an
uninterrupted one; on a GPU, bitwise equality needs
XLA_FLAGS=--xla_gpu_deterministic_ops=true.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options; those of the run have no default, so that --resume detects given ones."""
    _add_data(parser.add_argument_group("images"))
    _add_training(parser.add_argument_group("training"))
    where = parser.add_argument_group("run")
    where.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory of the results (default: runs/digits, or runs/NAME for --data .../NAME)",
    )
    where.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out with its own options; --epochs may differ",
    )
    _add_processes(parser.add_argument_group("several processes (run the command in each)"))


def _add(group: argparse._ArgumentGroup, name: str, help: str, **kwargs: Any) -> None:
    group.add_argument(name, help=help, default=argparse.SUPPRESS, **kwargs)


def _add_data(group: argparse._ArgumentGroup) -> None:
    height, width = _options.IMAGE_SIZE
    size = (
        "size in pixels to which the images of --data are resized, height first "
        f"(default: {height}x{width})"
    )
    seed = (
        "seed of the split, the initial parameters and the order of the images "
        f"(default: {_DEFAULT.seed})"
    )
    folder = "folder of images, with one subfolder per class (default: the digits)"
    _add(group, "--data", folder, metavar="DIR")
    _add(group, "--image-size", size, type=_options.image_size, metavar="N|HxW")
    _add(group, "--seed", seed, type=_options.seed, metavar="N")


def _add_training(group: argparse._ArgumentGroup) -> None:
    rates = ", ".join(f"{rate:g} for {name}" for name, rate in _options.LEARNING_RATES.items())
    count: dict[str, Any] = {"type": _options.positive_integer, "metavar": "N"}
    solvers = tuple(_options.LEARNING_RATES)
    epochs = f"passes over the training images (default: {_DEFAULT.epochs})"
    rate = f"initial learning rate (default: {rates})"
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
    _add(group, "--batch-size", f"images per step (default: {_DEFAULT.batch_size})", **count)
    _add(group, "--patience", patience, **count)


def _add_processes(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--coordinator",
        type=_options.address,
        metavar="HOST:PORT",
        help="address on which process 0 listens",
    )
    group.add_argument(
        "--processes", type=_options.positive_integer, metavar="N", help="number of processes"
    )
    group.add_argument(
        "--process-id", type=_options.process_id, metavar="I", help="index of this process, from 0"
    )


def run(arguments: argparse.Namespace) -> int:
    """Starts or resumes a run.

    Returns:
        0, 130 after Ctrl-C, or 143 after SIGTERM.

    Raises:
        CommandError: an option or the data are invalid, or the loss is not finite.
    """
    given = {name: getattr(arguments, name) for name in _options.NAMES if name in arguments}
    if "data" in given:
        given["data"] = os.path.abspath(given["data"])
    out = arguments.out or Path("runs", Path(given.get("data", "digits")).name)
    _join(arguments)
    _require_modules(digits="data" not in given and not arguments.resume)
    _check_alike(given | {"data": "data" in given, "resume": arguments.resume})
    with contextlib.ExitStack() as stack:
        # Only the first process accesses the directory.
        found, stored = _processes.from_first(
            lambda: _open_run(out, arguments.resume, given, stack)
        )
        options = Options.from_json(found)
        if "data" in given:
            # The path of the images may differ between machines.
            options = dataclasses.replace(options, data=given["data"])

        from grouped_conv_jax.commands import _run

        return _run.execute(out, options, stored)


def _join(arguments: argparse.Namespace) -> None:
    """Connects with the other processes, if any."""
    connection = (arguments.coordinator, arguments.processes, arguments.process_id)
    if connection == (None, None, None):
        return
    if None in connection:
        raise CommandError("--coordinator, --processes and --process-id belong together")
    if arguments.process_id >= arguments.processes:
        raise CommandError(
            f"--process-id must be less than --processes {arguments.processes}, "
            f"got {arguments.process_id}"
        )
    _processes.join(*connection)


def _require_modules(digits: bool) -> None:
    require("matplotlib", "flatbuffers", "PIL", *(["sklearn.datasets"] if digits else []))
    if sys.stderr.isatty():
        require("tqdm")


def _check_alike(given: dict[str, Any]) -> None:
    """Raises ``CommandError`` in all processes unless all have the same options."""
    words = json.dumps(given, sort_keys=True)
    first = _processes.from_first(lambda: words)

    def compare() -> None:
        if words != first:
            raise CommandError(f"all processes need the same options, {first}; got {words}")

    _processes.in_all(compare)


def _open_run(
    out: Path, resume: bool, given: dict[str, Any], stack: contextlib.ExitStack
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Locks the directory; returns the options and, if resuming, the stored ``config.json``."""
    stored = _run_directory.find_config(out) if resume else None
    if stored is not None:
        options = Options.from_json(stored["options"]).resume(given)
    elif resume:
        raise CommandError(
            f"--resume needs a run to continue, and there is no {out / _run_directory.CONFIG}; "
            "give the directory of the run as --out, or omit --resume to start a run"
        )
    else:
        options = Options.begin(given)
    stack.enter_context(_run_directory.locked(out))
    if stored is None:
        _run_directory.check_free(out)
    return options.to_json(), stored
