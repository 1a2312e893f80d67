"""Checkpoints of a training run, written atomically."""

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
    """The progress of a run.

    Attributes:
        state: the state from which the next step starts.
        best: parameters and batch statistics after the best epoch; the initial ones before the
            first epoch ends.
        history: one row of metrics per completed epoch.
        step: number of completed steps in the current epoch.
    """

    state: State
    best: dict[str, Arrays]
    history: Sequence[Row]
    step: int


class Checkpoints:
    """Saves and restores snapshots in Orbax's format; only the first process accesses the files.

    Orbax writes to a temporary directory, renames it, and then deletes the previous snapshot. It
    ignores and removes incomplete snapshots of a killed run.
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
            # Keep Orbax from waiting for the other processes.
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
        """Saves a snapshot, labelled with the number of steps taken so far."""
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
        """Returns the last complete snapshot, or ``None`` if there is none.

        The arrays are NumPy arrays, so the devices may differ from those that saved the snapshot.

        Args:
            like: a snapshot with the expected structure and shapes.

        Raises:
            CommandError: the snapshot is damaged or belongs to another network.
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
        """Replaces the arrays by those of the last snapshot; returns its history and step."""
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
        # Orbax does not document which errors it raises for damaged files.
        except Exception as error:
            raise CommandError(
                f"the checkpoint in {self._manager.directory} cannot be read: {error}", 1
            ) from error
        arrays.update(restored["state"])
        progress: dict[str, Any] = restored["progress"]
        return progress


def _arrays(snapshot: Snapshot) -> dict[str, Any]:
    return jax.tree.map(np.asarray, {"state": snapshot.state, "best": snapshot.best})
