"""The compiled training step and evaluation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from grouped_conv_jax import optim
from grouped_conv_jax.commands._data import Dataset
from grouped_conv_jax.commands._devices import Devices, Tree
from grouped_conv_jax.commands._images import PIXEL_MAXIMUM
from grouped_conv_jax.commands._networks import Arrays, Network
from grouped_conv_jax.commands._options import DROP_FACTOR, DROP_PERIOD, Options


class State(NamedTuple):
    """The state that a step updates.

    Attributes:
        params: parameters of the network.
        batch_stats: running statistics of the batch normalizations.
        solver: state of the solver.
        totals: loss and number of correct predictions, summed over the current epoch.
    """

    params: Arrays
    batch_stats: Arrays
    solver: optax.OptState
    totals: jax.Array


class Evaluation(NamedTuple):
    """Mean loss, accuracy, and the predicted class of each image, in order."""

    loss: float
    accuracy: float
    predictions: np.ndarray


class Learner:
    """Trains and evaluates a network on a data set.

    Args:
        network: the network.
        data: the data set.
        options: options of the run.
        steps_per_epoch: number of steps per epoch, for the learning-rate schedule.
        devices: the devices to use; ``None`` for all devices.
    """

    def __init__(
        self,
        network: Network,
        data: Dataset,
        options: Options,
        steps_per_epoch: int,
        devices: Devices | None = None,
    ) -> None:
        self._network = network
        self._data = data
        self._devices = devices or Devices()
        # Round up to a multiple of the number of devices.
        self._size = -(-options.batch_size // self._devices.count) * self._devices.count
        self._schedule = learning_rate_schedule(options, steps_per_epoch)
        self._solver = make_solver(options, self._schedule, network.factors)
        everywhere = self._devices.everywhere
        self._jit_step = jax.jit(self._step, out_shardings=everywhere)
        self._jit_evaluate = jax.jit(self._evaluate, out_shardings=everywhere)

    def begin(self, seed: int) -> State:
        """Returns the state before the first step."""
        params, batch_stats = self._network.initialize(seed)
        state = State(params, batch_stats, self._solver.init(params), jnp.zeros(2, jnp.float32))
        return self.place(state)

    def place(self, tree: Tree) -> Tree:
        """Places arrays, such as those of a checkpoint, on the devices."""
        return self._devices.replicate(tree)

    def step(self, state: State, batch: np.ndarray) -> State:
        """Takes one step on the images with the indices ``batch``, at most one batch of them."""
        return self._jit_step(state, *self._batch(batch))

    def evaluate(self, params: Arrays, batch_stats: Arrays, indices: np.ndarray) -> Evaluation:
        """Evaluates on the images with the given indices."""
        losses, predictions = [], []
        for start in range(0, len(indices), self._size):
            images, labels, _ = self._batch(indices[start : start + self._size])
            batch_losses, batch_predictions = self._jit_evaluate(
                params, batch_stats, images, labels
            )
            losses.append(batch_losses)
            predictions.append(batch_predictions)
        # Drop the fill of the last batch.
        loss = np.concatenate(losses)[: len(indices)]
        prediction = np.concatenate(predictions)[: len(indices)]
        correct = prediction == self._data.labels[indices]
        return Evaluation(float(loss.mean()), float(correct.mean()), prediction)

    def learning_rate(self, step: int) -> float:
        """Returns the learning rate of a step."""
        return float(self._schedule(step))

    def _batch(self, indices: np.ndarray) -> list[jax.Array]:
        """Returns images, labels and a mask, filled up to a fixed size to compile only once."""
        filled = np.resize(indices, self._size)
        mask = np.arange(self._size) < len(indices)
        arrays = self._data.images[filled], self._data.labels[filled], mask
        return [self._devices.spread(array) for array in arrays]

    def _step(self, state: State, images: jax.Array, labels: jax.Array, mask: jax.Array) -> State:
        def mean_loss(params: Arrays) -> tuple[jax.Array, Any]:
            logits, batch_stats = self._network.logits(
                params, state.batch_stats, scale_pixels(images), mask
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            correct = logits.argmax(-1).astype(labels.dtype) == labels
            sums = losses.sum(where=mask), correct.sum(where=mask, dtype=jnp.float32)
            totals = jnp.stack(sums)
            return losses.mean(where=mask), (batch_stats, totals)

        gradients, (batch_stats, totals) = jax.grad(mean_loss, has_aux=True)(state.params)
        updates, solver = self._solver.update(gradients, state.solver, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(params, batch_stats, solver, state.totals + totals)

    def _evaluate(
        self, params: Arrays, batch_stats: Arrays, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        logits, _ = self._network.logits(params, batch_stats, scale_pixels(images), None)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels), logits.argmax(-1)


def scale_pixels(images: jax.Array) -> jax.Array:
    """Scales uint8 pixels to [0, 1]; float32 pixels already have that range."""
    return images if images.dtype == jnp.float32 else images.astype(jnp.float32) / PIXEL_MAXIMUM


def learning_rate_schedule(options: Options, steps_per_epoch: int) -> optax.Schedule:
    """Returns the schedule of the options: constant, or divided by ten every ten epochs."""
    assert options.learning_rate is not None
    if options.schedule == "none":
        return optax.constant_schedule(options.learning_rate)
    return optax.exponential_decay(
        options.learning_rate, DROP_PERIOD * steps_per_epoch, DROP_FACTOR, staircase=True
    )


def make_solver(
    options: Options, schedule: optax.Schedule, factors: optim.Factors
) -> optax.GradientTransformation:
    """Returns the solver of the options."""
    if options.solver == "sgdm":
        assert options.momentum is not None
        return optim.sgdm(schedule, options.momentum, l2_regularization=options.l2, factors=factors)
    solver = optim.adam if options.solver == "adam" else optim.rmsprop
    return solver(schedule, l2_regularization=options.l2, factors=factors)
