"""A training run, from loading the data to writing the results."""

import csv
import io
import re
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grouped_conv_jax import __version__
from grouped_conv_jax.commands import (
    _data,
    _export,
    _interrupts,
    _networks,
    _plots,
    _processes,
    _program,
    _run_directory,
)
from grouped_conv_jax.commands._checkpoints import Checkpoints, Row, Snapshot
from grouped_conv_jax.commands._data import Dataset
from grouped_conv_jax.commands._errors import CommandError
from grouped_conv_jax.commands._images import PIXEL_MAXIMUM
from grouped_conv_jax.commands._learner import Learner
from grouped_conv_jax.commands._options import Options
from grouped_conv_jax.commands._progress import Bar, Lines, Progress, on_terminal
from grouped_conv_jax.commands._training import (
    InterruptedRunError,
    Training,
    best_epoch,
    steps_per_epoch,
)
from grouped_conv_jax.layer import _separable_network as parts

_NAMED_FILES = 10
_EXAMPLES = 5


def execute(out: Path, options: Options, stored: dict[str, Any] | None) -> int:
    """Trains in a locked directory and returns the exit status.

    Args:
        out: directory of the run.
        options: options of the run.
        stored: ``config.json`` of the run to resume, or ``None``.

    Raises:
        CommandError: the data are invalid, or the loss is not finite.
    """
    try:
        data, split = _prepare(out, options, stored)
        with _interrupts.deferred() as interrupted:
            # A signal to one process stops all of them after the same step.
            Run(out, options, data, split).execute(lambda: _processes.maximum(interrupted()))
    except InterruptedRunError as error:
        number = error.number
    except KeyboardInterrupt:
        number = signal.SIGINT
    else:
        return 0
    if _processes.is_first():
        advice = _program.command("train", "--resume", "--out", out)
        print(f"interrupted and saved; resume with: {advice}", file=sys.stderr)
    return 128 + number


def _prepare(
    out: Path, options: Options, stored: dict[str, Any] | None
) -> tuple[Dataset, dict[str, np.ndarray]]:
    """Loads and splits the data, and checks that all processes have the same."""
    creates_run = stored is None and _processes.is_first()
    if creates_run:
        # Write the options before anything else, so that --resume finds them.
        _run_directory.write_config(out, _config(options))
    try:
        data, split = _processes.in_all(lambda: _load(options))
        fingerprint = _processes.from_first(lambda: data.fingerprint)
        _processes.in_all(lambda: _check_same_images(data, fingerprint))
    except CommandError:
        if creates_run:
            _run_directory.discard(out)
        raise
    if stored is not None and stored.get("images_sha256") not in (None, fingerprint):
        raise CommandError(
            f"--resume needs the images that the run in {out} started with; "
            f"those in {options.data or 'the digits'} differ"
        )
    return data, split


def _load(options: Options) -> tuple[Dataset, dict[str, np.ndarray]]:
    if options.data is None:
        data = _data.load_digits()
    else:
        assert options.image_size is not None
        data = _data.load_folder(Path(options.data), options.image_size)
    split = data.split(options.seed)
    steps_per_epoch(split, options)
    return data, split


def _check_same_images(data: Dataset, fingerprint: str) -> None:
    if data.fingerprint != fingerprint:
        raise CommandError("--data must hold the same images for all processes")


class Run:
    """Trains the network; the first process also writes and prints the results.

    Args:
        out: directory of the run.
        options: options of the run.
        data: the images.
        split: indices of the images in each split.
    """

    def __init__(
        self, out: Path, options: Options, data: Dataset, split: dict[str, np.ndarray]
    ) -> None:
        self._out = out
        self._options = options
        self._data = data
        self._split = split
        self._steps_per_epoch = steps_per_epoch(split, options)
        self._is_first = _processes.is_first()

    def execute(self, interrupted: Callable[[], int]) -> None:
        """Runs from the last checkpoint, or from the start, to the end."""
        if self._is_first:
            self._print_summary()
        learner = Learner(self._network(), self._data, self._options, self._steps_per_epoch)
        training = Training(learner, self._split, self._options)
        with Checkpoints(self._out / _run_directory.CHECKPOINT) as checkpoints:
            start = training.begin()
            snapshot = training.place(checkpoints.restore(like=start) or start)
            if len(snapshot.history) > self._options.epochs:
                raise CommandError(
                    f"--epochs must be at least the {len(snapshot.history)} that the run in "
                    f"{self._out} has completed, got {self._options.epochs}"
                )
            self._write_config(results=None)
            taken = training.steps_taken(snapshot)
            if taken and self._is_first:
                print(f"resuming after {_position(snapshot, self._steps_per_epoch)}", flush=True)
            with self._progress(taken) as progress:
                snapshot = training.run(
                    snapshot, checkpoints, progress, interrupted, self._write_metrics
                )
        self._finish(learner, snapshot)

    def _network(self, implementation: str | None = None) -> _networks.Network:
        return _networks.build(
            self._options.api, self._image_shape, len(self._data.classes), implementation
        )

    @property
    def _image_shape(self) -> tuple[int, int, int]:
        _, height, width, channels = self._data.images.shape
        return height, width, channels

    def _print_summary(self) -> None:
        data = self._data
        height, width, channels = self._image_shape
        frozen = ", ".join(parts.CONVOLUTIONS)
        sizes = ", ".join(f"{name} {len(self._split[name])}" for name in _data.SPLITS)
        print(
            f"{len(data.images)} images of {height} x {width} x {channels} in "
            f"{len(data.classes)} classes\n{sizes}\n"
            f"frozen biases, which batch normalization cancels:\n  {frozen}",
            flush=True,
        )
        if data.left_out:
            print(f"skipped files: {len(data.left_out)}", file=sys.stderr)
            for reason in data.left_out[:_NAMED_FILES]:
                print(f"  {reason}", file=sys.stderr)
            if len(data.left_out) > _NAMED_FILES:
                print(f"  ... full list in {self._out / _run_directory.CONFIG}", file=sys.stderr)

    def _progress(self, steps_taken: int) -> Progress:
        if not self._is_first:
            return Progress()
        if on_terminal():
            return Bar(self._options.epochs, self._steps_per_epoch, steps_taken)
        return Lines(self._options.epochs)

    def _write_config(self, results: dict[str, float] | None) -> None:
        if self._is_first:
            config = _config(self._options, self._data, self._split, results)
            _run_directory.write_config(self._out, config)

    def _write_metrics(self, history: Sequence[Row]) -> None:
        if not self._is_first:
            return
        text = io.StringIO()
        table = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(history)
        _run_directory.write(self._out, _run_directory.METRICS, text.getvalue().encode())

    def _finish(self, learner: Learner, snapshot: Snapshot) -> None:
        indices, best = self._split["test"], snapshot.best
        test = learner.evaluate(best["params"], best["batch_stats"], indices)
        if not self._is_first:
            return
        kept = best_epoch(snapshot.history)
        # Detach the arrays from the mesh, so that the export runs on any device.
        best = jax.tree.map(lambda array: jnp.asarray(np.asarray(array)), best)
        layers = {
            "First convolution": best["params"]["convolution"],
            "Channel-wise convolution": best["params"]["channel_wise"],
        }
        network = self._network(implementation="lax")
        files = {
            _run_directory.MODEL: _export.export_model(
                network, **best, image_shape=self._image_shape
            ),
            _run_directory.CURVES: _plots.draw_curves(snapshot.history, kept),
            _run_directory.FILTERS: _plots.draw_filters(
                {name: np.asarray(layer["weights"]) for name, layer in layers.items()}
            ),
            _run_directory.CONFUSION: _plots.draw_confusion(
                self._data.labels[indices], test.predictions, self._data.classes
            ),
        }
        self._write_metrics(snapshot.history)
        for name, content in files.items():
            _run_directory.write(self._out, name, content)
        self._write_config(
            {
                "epochs": len(snapshot.history),
                "kept_epoch": kept,
                "test_loss": test.loss,
                "test_accuracy": test.accuracy,
            }
        )
        example = self._write_examples()
        advice = _program.command("predict", "--model", self._out, example)
        print(
            f"kept epoch {kept} of {len(snapshot.history)}\n"
            f"test accuracy {test.accuracy:.2%}, loss {test.loss:.4f}\n"
            f"written to {self._out}\nnext: {advice}"
        )

    def _write_examples(self) -> Path:
        """Writes a test image of each of the first classes; returns the path of the first."""
        directory = self._out / _run_directory.EXAMPLES
        directory.mkdir(exist_ok=True)
        written = []
        for label, name in enumerate(self._data.classes[:_EXAMPLES]):
            index = next(i for i in self._split["test"] if self._data.labels[i] == label)
            suffix, content = self._data.as_file(index)
            # Class names may contain any character.
            file = re.sub(r"[^\w.-]", "_", f"{label + 1}-{name[:40]}{suffix}")
            _run_directory.write(directory, file, content)
            written.append(directory / file)
        return written[0]


def _config(
    options: Options,
    data: Dataset | None = None,
    split: dict[str, np.ndarray] | None = None,
    results: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Returns the content of ``config.json``; omits the data before they are loaded."""
    config: dict[str, Any] = {
        "versions": {
            **{name: metadata.version(name) for name in ("jax", "jaxlib", "flax")},
            "grouped_conv_jax": __version__,
        },
        "options": options.to_json(),
    }
    if data is not None and split is not None:
        _, height, width, channels = data.images.shape
        config |= {
            "classes": data.classes,
            "image_size": [height, width],
            "channels": channels,
            "pixel_maximum": PIXEL_MAXIMUM,
            "value_range": data.value_range,
            "images": {name: len(indices) for name, indices in split.items()},
            "images_sha256": data.fingerprint,
            "left_out": data.left_out,
        }
    return config | {"results": results}


def _position(snapshot: Snapshot, steps_per_epoch: int) -> str:
    count = len(snapshot.history)
    epochs = f"{count} epoch{'' if count == 1 else 's'}"
    return f"{epochs} and {snapshot.step} of {steps_per_epoch} steps" if snapshot.step else epochs
