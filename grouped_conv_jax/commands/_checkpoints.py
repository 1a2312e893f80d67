"""Checkpoints of a training run: whole, or not there at all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from grouped_conv_jax.commands import _processes
from grouped_conv_jax.commands._errors import CommandError
from grouped_conv_jax.commands._learner import State
from grouped_conv_jax.commands._networks import Arrays

Row = dict[str, float]


class Snapshot(NamedTuple):
    """Where a run stands.

    Attributes:
        state: what the next step starts from.
        best: parameters and batch statistics after the best epoch; those of the start before the
            first.
        history: a row of metrics for each complete epoch.
        step: how many steps the epoch after those has had.
    """

    state: State
    best: dict[str, Arrays]
    history: Sequence[Row]
    step: int


class Checkpoints:
    """The snapshots of a run, in Orbax's format, which the first process writes and reads for all.

    Orbax writes into a temporary directory and renames it; the snapshot before goes only when the
    new one is complete. What a killed run left half written, it passes over and removes.
    """

    def __init__(self, directory: Path) -> None:
        self._manager: Any = None
        if not _processes.is_first():
            return
        directory.mkdir(exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=True,
            # Orbax would wait for the other processes, which have nothing to do here.
            create=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(active_processes={0}),
        )
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._manager:
            self._manager.close()

    def save(self, snapshot: Snapshot, steps_taken: int) -> None:
        """Saves a snapshot under the number of steps taken so far."""
        if not self._manager or self._manager.latest_step() == steps_taken:
            return
        self._manager.save(
            steps_taken,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_arrays(snapshot)),
                progress=ocp.args.JsonSave({"history": snapshot.history, "step": snapshot.step}),
            ),
        )

    def restore(self, like: Snapshot) -> Snapshot | None:
        """Returns the last complete snapshot, or ``None``; ``like`` gives structure and shapes.

        The arrays are NumPy's: the devices may be others than when it was saved.

        Raises:
            CommandError: it is damaged, or not of this network.
        """
        arrays = _arrays(like)
        progress = _processes.from_first(lambda: self._read_into(arrays))
        if progress is None:
            return None
        arrays = _processes.arrays_from_first(arrays)
        return Snapshot(
            State(*arrays["state"]), arrays["best"], progress["history"], progress["step"]
        )

    def _read_into(self, arrays: dict[str, Any]) -> dict[str, Any] | None:
        """Replaces the arrays by those of the last snapshot, and returns what else it holds."""
        latest = self._manager.latest_step()
        if latest is None:
            return None
        try:
            restored = self._manager.restore(
                latest,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(arrays),
                    progress=ocp.args.JsonRestore(),
                ),
            )
        # Orbax documents none of the errors that it raises for damaged files.
        except Exception as error:
            raise CommandError(
                f"the checkpoint in {self._manager.directory} cannot be read: {error}", 1
            ) from error
        arrays.update(restored["state"])
        progress: dict[str, Any] = restored["progress"]
        return progress


def _arrays(snapshot: Snapshot) -> dict[str, Any]:
    return jax.tree.map(np.asarray, {"state": snapshot.state, "best": snapshot.best})
