"""A training run from its data to its last picture."""

import csv
import io
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grouped_conv_jax.commands import (
    _data,
    _export,
    _interrupts,
    _networks,
    _plots,
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

_NAMED_FILES = 10


class Run:
    """Trains the network and writes what comes of it.

    Args:
        out: the directory of the run.
        options: what it depends on.
        stored: ``config.json`` of the run that goes on, or ``None``.
    """

    def __init__(self, out: Path, options: Options, stored: dict[str, Any] | None) -> None:
        self._out = out
        self._options = options
        self._is_new = stored is None
        self._data = _load(options)
        if stored is not None and stored["images_sha256"] != self._data.fingerprint:
            raise CommandError(
                f"--resume needs the images that the run in {out} began with; "
                f"those in {options.data or 'the digits'} are others"
            )
        self._split = self._data.split(options.seed)
        self._steps_per_epoch = steps_per_epoch(self._split, options)

    def execute(self) -> int:
        """Runs, and returns the exit status."""
        try:
            with _interrupts.deferred() as interrupted:
                self._introduce()
                self._out.mkdir(parents=True, exist_ok=True)
                if self._is_new:
                    # Before any checkpoint: what --resume goes by.
                    self._write_config(results=None)
                self._train_and_finish(interrupted)
        except (InterruptedRunError, KeyboardInterrupt):
            resume = ["grouped-conv-jax", "train", "--resume", "--out", str(self._out)]
            print(f"interrupted and saved; go on with: {shlex.join(resume)}", file=sys.stderr)
            return 130
        return 0

    def _train_and_finish(self, interrupted: Callable[[], bool]) -> None:
        learner = Learner(self._network(), self._data, self._options, self._steps_per_epoch)
        training = Training(learner, self._split, self._options)
        with Checkpoints(self._out / _run_directory.CHECKPOINT) as checkpoints:
            start = training.begin()
            snapshot = checkpoints.restore(like=start) or start
            if len(snapshot.history) > self._options.epochs:
                raise CommandError(
                    f"--epochs must be at least the {len(snapshot.history)} that the run in "
                    f"{self._out} has had, got {self._options.epochs}"
                )
            self._write_config(results=None)
            taken = training.steps_taken(snapshot)
            if taken:
                print(f"going on after {_place(snapshot, self._steps_per_epoch)}", flush=True)
            with self._progress(taken) as progress:
                snapshot = training.run(snapshot, checkpoints, progress, interrupted, self._publish)
        self._finish(learner, snapshot)

    def _network(self, implementation: str | None = None) -> _networks.Network:
        return _networks.build(
            self._options.api, self._image_shape, len(self._data.classes), implementation
        )

    @property
    def _image_shape(self) -> tuple[int, int, int]:
        _, height, width, channels = self._data.images.shape
        return height, width, channels

    def _introduce(self) -> None:
        data = self._data
        height, width, channels = self._image_shape
        sizes = ", ".join(f"{len(self._split[name])} for {name}" for name in _data.SPLITS)
        print(
            f"{len(data.images)} images of {height} x {width} x {channels} in "
            f"{len(data.classes)} classes: {sizes}",
            flush=True,
        )
        if data.left_out:
            print(f"files left out: {len(data.left_out)}", file=sys.stderr)
            for reason in data.left_out[:_NAMED_FILES]:
                print(f"  {reason}", file=sys.stderr)
            if len(data.left_out) > _NAMED_FILES:
                print(
                    f"  ... all are named in {self._out / _run_directory.CONFIG}", file=sys.stderr
                )

    def _progress(self, steps_taken: int) -> Progress:
        if on_terminal():
            return Bar(self._options.epochs, self._steps_per_epoch, steps_taken)
        return Lines(self._options.epochs)

    def _write_config(self, results: dict[str, float] | None) -> None:
        height, width, channels = self._image_shape
        config = {
            "classes": self._data.classes,
            "image_size": [height, width],
            "channels": channels,
            "pixel_maximum": PIXEL_MAXIMUM,
            "options": self._options.to_json(),
            "images": {name: len(indices) for name, indices in self._split.items()},
            "images_sha256": self._data.fingerprint,
            "left_out": self._data.left_out,
            "results": results,
        }
        _run_directory.write_config(self._out, config)

    def _publish(self, history: Sequence[Row]) -> None:
        text = io.StringIO()
        table = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(history)
        _run_directory.write(self._out, _run_directory.METRICS, text.getvalue().encode())

    def _finish(self, learner: Learner, snapshot: Snapshot) -> None:
        indices, best = self._split["test"], snapshot.best
        test = learner.evaluate(best["params"], best["batch_stats"], indices)
        kept = best_epoch(snapshot.history)
        layers = {
            "First convolution": best["params"]["convolution"],
            "Channel-wise convolution": best["params"]["channel_wise"],
        }
        # The exported network must not depend on the device that trained it.
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
                self._data.labels[indices], test.answers, self._data.classes
            ),
        }
        self._publish(snapshot.history)
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
        print(
            f"kept epoch {kept} of {len(snapshot.history)}: "
            f"test accuracy {test.accuracy:.2%}, loss {test.loss:.4f}\nwritten to {self._out}"
        )


def _load(options: Options) -> Dataset:
    if options.data is None:
        return _data.load_digits()
    assert options.image_size is not None
    return _data.load_folder(Path(options.data), options.image_size)


def _place(snapshot: Snapshot, steps_per_epoch: int) -> str:
    epochs = f"{len(snapshot.history)} epochs"
    return f"{epochs} and {snapshot.step} of {steps_per_epoch} steps" if snapshot.step else epochs
