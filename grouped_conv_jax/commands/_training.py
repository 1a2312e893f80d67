"""The epochs of a run."""

import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from grouped_conv_jax.commands._checkpoints import Checkpoints, Row, Snapshot
from grouped_conv_jax.commands._errors import CommandError
from grouped_conv_jax.commands._learner import Learner, State
from grouped_conv_jax.commands._networks import Arrays
from grouped_conv_jax.commands._options import Options
from grouped_conv_jax.commands._progress import Progress


class InterruptedRunError(Exception):
    """A signal stopped the run after saving it.

    Args:
        number: number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Training:
    """Trains a learner on one split and validates it on another.

    The options, the data and a snapshot determine the rest of a run, so a resumed run reaches the
    same result as an uninterrupted one.

    Args:
        learner: the learner to train.
        split: image indices, under the names ``"training"`` and ``"validation"``.
        options: options of the run.
    """

    def __init__(self, learner: Learner, split: dict[str, np.ndarray], options: Options) -> None:
        self._learner = learner
        self._split = split
        self._options = options
        self._steps_per_epoch = steps_per_epoch(split, options)

    def begin(self) -> Snapshot:
        """Returns the initial snapshot."""
        state = self._learner.begin(self._options.seed)
        return Snapshot(state, _result(state), history=[], step=0)

    def place(self, snapshot: Snapshot) -> Snapshot:
        """Places a snapshot on the devices."""
        state, best = self._learner.place((snapshot.state, snapshot.best))
        return snapshot._replace(state=state, best=best)

    def is_over(self, history: Sequence[Row]) -> bool:
        """Returns whether all epochs are complete or patience has run out."""
        patience = self._options.patience or math.inf
        return (
            len(history) >= self._options.epochs or len(history) - best_epoch(history) >= patience
        )

    def steps_taken(self, snapshot: Snapshot) -> int:
        """Returns the number of steps before a snapshot."""
        return len(snapshot.history) * self._steps_per_epoch + snapshot.step

    def run(
        self,
        snapshot: Snapshot,
        checkpoints: Checkpoints,
        progress: Progress,
        interrupted: Callable[[], int],
        publish: Callable[[Sequence[Row]], None],
    ) -> Snapshot:
        """Trains until the run is over, with a checkpoint after each epoch.

        Args:
            snapshot: the snapshot to start from.
            checkpoints: store of the snapshots.
            progress: receives the events of the run.
            interrupted: returns the number of a received signal, or 0.
            publish: called with the history after each epoch.

        Returns:
            The final snapshot.

        Raises:
            InterruptedRunError: a signal arrived; the snapshot is saved.
            CommandError: the loss is not finite.
        """
        if not self.is_over(snapshot.history):
            progress.compiling()
        while not self.is_over(snapshot.history):
            snapshot = self._epoch(snapshot, checkpoints, progress, interrupted)
            checkpoints.save(snapshot, self.steps_taken(snapshot))
            publish(snapshot.history)
            progress.epoch(snapshot.history[-1])
        return snapshot

    def _epoch(
        self,
        snapshot: Snapshot,
        checkpoints: Checkpoints,
        progress: Progress,
        interrupted: Callable[[], int],
    ) -> Snapshot:
        number, size = len(snapshot.history), self._options.batch_size
        # Seed the shuffle by epoch, so that a resumed run shuffles the same way.
        generator = np.random.default_rng([self._options.seed, number])
        order = generator.permutation(self._split["training"])
        state = snapshot.state
        if snapshot.step == 0:
            state = state._replace(totals=jax.numpy.zeros_like(state.totals))
        for step in range(snapshot.step, self._steps_per_epoch):
            if signal_number := interrupted():
                snapshot = snapshot._replace(state=state, step=step)
                checkpoints.save(snapshot, self.steps_taken(snapshot))
                raise InterruptedRunError(signal_number)
            state = self._learner.step(state, order[step * size : (step + 1) * size])
            progress.step()
        history = [*snapshot.history, self._measure(state, number)]
        best = _result(state) if best_epoch(history) == len(history) else snapshot.best
        return Snapshot(state, best, history, step=0)

    def _measure(self, state: State, number: int) -> Row:
        loss, correct = (np.asarray(state.totals, np.float64)).tolist()
        images = len(self._split["training"])
        validation = self._learner.evaluate(
            state.params, state.batch_stats, self._split["validation"]
        )
        row: Row = {
            "epoch": number + 1,
            "learning_rate": self._learner.learning_rate(number * self._steps_per_epoch),
            "training_loss": loss / images,
            "training_accuracy": correct / images,
            "validation_loss": validation.loss,
            "validation_accuracy": validation.accuracy,
        }
        if not math.isfinite(row["training_loss"]) or not math.isfinite(row["validation_loss"]):
            raise CommandError(
                f"the loss is not finite in epoch {number + 1}; "
                f"a lower --learning-rate may help, got {self._options.learning_rate}",
                exit_status=1,
            )
        return row


def steps_per_epoch(split: dict[str, np.ndarray], options: Options) -> int:
    """Returns the number of batches per epoch, including a smaller last one.

    Raises:
        CommandError: there are fewer training images than one batch.
    """
    if options.batch_size > len(split["training"]):
        raise CommandError(
            f"--batch-size must be at most the number of training images, "
            f"{len(split['training'])}, got {options.batch_size}"
        )
    return -(-len(split["training"]) // options.batch_size)


def best_epoch(history: Sequence[Row]) -> int:
    """Returns the first epoch with the lowest validation loss, counted from 1; 0 without epochs."""
    losses = [row["validation_loss"] for row in history]
    return losses.index(min(losses)) + 1 if losses else 0


def _result(state: State) -> dict[str, Arrays]:
    return {"params": state.params, "batch_stats": state.batch_stats}
