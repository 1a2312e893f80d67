"""The epochs of a run, from wherever it stands to where it ends."""

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
    """A signal came, and the run is saved.

    Args:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Training:
    """Trains a learner on one split and validates it on another.

    All that a run depends on is in its options, in its data and in the snapshots: a run that goes
    on from any snapshot ends as one that was never interrupted.

    Args:
        learner: what is trained.
        split: indices of images, by the names ``"training"`` and ``"validation"``.
        options: of the run.
    """

    def __init__(self, learner: Learner, split: dict[str, np.ndarray], options: Options) -> None:
        self._learner = learner
        self._split = split
        self._options = options
        self._steps_per_epoch = steps_per_epoch(split, options)

    def begin(self) -> Snapshot:
        """Where a run starts."""
        state = self._learner.begin(self._options.seed)
        return Snapshot(state, _result(state), history=[], step=0)

    def place(self, snapshot: Snapshot) -> Snapshot:
        """Brings a snapshot to the devices."""
        state, best = self._learner.place((snapshot.state, snapshot.best))
        return snapshot._replace(state=state, best=best)

    def is_over(self, history: Sequence[Row]) -> bool:
        """Whether all epochs are done, or patience has run out."""
        patience = self._options.patience or math.inf
        return (
            len(history) >= self._options.epochs or len(history) - best_epoch(history) >= patience
        )

    def steps_taken(self, snapshot: Snapshot) -> int:
        """How many steps a snapshot has behind it."""
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
            snapshot: where to start.
            checkpoints: where snapshots are saved.
            progress: is told of the compilation, of each step and of each epoch.
            interrupted: tells the number of the signal to save and stop at, or 0.
            publish: is given the history after each epoch.

        Returns:
            Where the run ended.

        Raises:
            InterruptedRunError: it was interrupted; the snapshot is saved.
            CommandError: the loss is no finite number any more.
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
        # From seed and number alone, so that a resumed run shuffles alike.
        generator = np.random.default_rng([self._options.seed, number])
        order = generator.permutation(self._split["training"])
        state = snapshot.state
        if snapshot.step == 0:
            state = state._replace(totals=jax.numpy.zeros_like(state.totals))
        for step in range(snapshot.step, self._steps_per_epoch):
            if number_of_signal := interrupted():
                snapshot = snapshot._replace(state=state, step=step)
                checkpoints.save(snapshot, self.steps_taken(snapshot))
                raise InterruptedRunError(number_of_signal)
            state = self._learner.step(state, order[step * size : (step + 1) * size])
            progress.step()
        history = [*snapshot.history, self._measure(state, number)]
        best = _result(state) if best_epoch(history) == len(history) else snapshot.best
        return Snapshot(state, best, history, step=0)

    def _measure(self, state: State, number: int) -> Row:
        loss, right = (np.asarray(state.totals, np.float64)).tolist()
        images = len(self._split["training"])
        validation = self._learner.evaluate(
            state.params, state.batch_stats, self._split["validation"]
        )
        row: Row = {
            "epoch": number + 1,
            "learning_rate": self._learner.learning_rate(number * self._steps_per_epoch),
            "training_loss": loss / images,
            "training_accuracy": right / images,
            "validation_loss": validation.loss,
            "validation_accuracy": validation.accuracy,
        }
        if not math.isfinite(row["training_loss"]) or not math.isfinite(row["validation_loss"]):
            raise CommandError(
                f"the loss is no finite number any more in epoch {number + 1}; "
                f"a lower --learning-rate may help, got {self._options.learning_rate}",
                exit_status=1,
            )
        return row


def steps_per_epoch(split: dict[str, np.ndarray], options: Options) -> int:
    """How many batches the training images make, the last one perhaps a smaller one.

    Raises:
        CommandError: there are fewer images than one batch takes.
    """
    if options.batch_size > len(split["training"]):
        raise CommandError(
            f"--batch-size must be at most the number of training images, "
            f"{len(split['training'])}, got {options.batch_size}"
        )
    return -(-len(split["training"]) // options.batch_size)


def best_epoch(history: Sequence[Row]) -> int:
    """The number of the epoch with the lowest validation loss, the first of equals; 0 for none."""
    losses = [row["validation_loss"] for row in history]
    return losses.index(min(losses)) + 1 if losses else 0


def _result(state: State) -> dict[str, Arrays]:
    return {"params": state.params, "batch_stats": state.batch_stats}
