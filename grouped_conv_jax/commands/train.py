"""``grouped-conv-jax train``: trains the channel-wise separable network on images."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from grouped_conv_jax.commands import _options, _run_directory
from grouped_conv_jax.commands._errors import require
from grouped_conv_jax.commands._options import Options

SUMMARY = "train the channel-wise separable network on images"
DESCRIPTION = """\
Trains the channel-wise separable network (grouped_conv_jax.linen.SeparableNetwork,
grouped_conv_jax.nnx.SeparableNetwork) on images: scikit-learn's 1,797 handwritten
digits, or a folder of your own. 15 % of each class are held out for validation and
15 % for test. The parameters of the epoch with the lowest validation loss are kept.
"""
EPILOG = """\
what is written to --out:
  config.json       options, classes, image size, scaling of the pixels, results
  metrics.csv       loss and accuracy of each epoch
  curves.png        the same as curves
  filters.png       the filters of the first two convolutions, by group
  confusion.png     which test images were taken for what
  model.stablehlo   the network for `predict`, for CPU, CUDA and TPU
  checkpoint/       all that --resume needs, in Orbax's format

Ctrl-C saves and stops. `train --resume --out DIR` goes on, after Ctrl-C or any other
end, and reaches the results of a run that was never interrupted (on a GPU, to the last
digit, under XLA_FLAGS=--xla_gpu_deterministic_ops=true).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options. Those not given are absent, so that --resume can tell."""
    default = Options()
    rates = ", ".join(f"{rate:g} for {name}" for name, rate in _options.LEARNING_RATES.items())
    height, width = _options.IMAGE_SIZE

    def add(name: str, help: str, **kwargs: Any) -> None:
        parser.add_argument(name, help=help, default=argparse.SUPPRESS, **kwargs)

    add(
        "--data",
        "folder of images, one subfolder a class (default: the digits)",
        metavar="DIR",
    )
    add(
        "--image-size",
        "pixels to which the images of --data are resized, height first "
        f"(default: {height}x{width})",
        type=_options.image_size,
        metavar="N|HxW",
    )
    add("--api", f"Flax API (default: {default.api})", choices=("linen", "nnx"))
    add(
        "--solver",
        f"(default: {default.solver})",
        choices=tuple(_options.LEARNING_RATES),
    )
    add(
        "--learning-rate",
        f"(default: {rates})",
        type=_options.positive,
        metavar="RATE",
    )
    add(
        "--l2",
        f"L2 regularization (default: {default.l2:g})",
        type=_options.nonnegative,
        metavar="FACTOR",
    )
    add(
        "--momentum",
        f"of the solver sgdm (default: {_options.MOMENTUM})",
        type=_options.fraction,
        metavar="M",
    )
    add(
        "--epochs",
        f"passes over the training images (default: {default.epochs})",
        type=_options.positive_integer,
        metavar="N",
    )
    add(
        "--batch-size",
        f"images a step (default: {default.batch_size})",
        type=_options.positive_integer,
        metavar="N",
    )
    add(
        "--seed",
        f"of the split, the first parameters and the order of the images (default: {default.seed})",
        type=_options.seed,
        metavar="N",
    )
    add(
        "--schedule",
        f"piecewise: {_options.DROP_FACTOR} times the learning rate every "
        f"{_options.DROP_PERIOD} epochs (default: {default.schedule})",
        choices=("none", "piecewise"),
    )
    add(
        "--patience",
        "stop after so many epochs without a lower validation loss (default: never)",
        type=_options.positive_integer,
        metavar="N",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out and with its options; --epochs may be another",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory for the results (default: runs/digits, or runs/ and the name of --data)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains, or goes on with it.

    Returns:
        0, or 130 after Ctrl-C.

    Raises:
        CommandError: an option or the data are wrong, or the loss is no finite number any more.
    """
    given = {name: getattr(arguments, name) for name in _options.NAMES if name in arguments}
    if "data" in given:
        given["data"] = os.path.abspath(given["data"])
    out = arguments.out or Path("runs", Path(given.get("data", "digits")).name)
    stored = _run_directory.find_config(out) if arguments.resume else None
    if stored is None:
        _run_directory.check_free(out)
        options = Options.begin(given)
    else:
        options = Options.from_json(stored["options"]).resume(given)
    require("matplotlib", "flatbuffers", "PIL" if options.data else "sklearn.datasets")
    if sys.stderr.isatty():
        require("tqdm")
    if arguments.resume and stored is None:
        print(f"nothing to resume in {out}: this run begins anew", file=sys.stderr)

    from grouped_conv_jax.commands._run import Run

    return Run(out, options, stored).execute()
