"""One step of training and the evaluation, compiled."""

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
    """What a step changes.

    Attributes:
        params: the network's parameters.
        batch_stats: the running statistics of its batch normalizations.
        solver: the solver's state.
        totals: loss and number of right answers, summed over the images of the epoch so far.
    """

    params: Arrays
    batch_stats: Arrays
    solver: optax.OptState
    totals: jax.Array


class Evaluation(NamedTuple):
    """Mean loss, share of right answers, and the answers in the images' order."""

    loss: float
    accuracy: float
    answers: np.ndarray


class Learner:
    """A network with its solver and its data.

    Args:
        network: what learns.
        data: all images.
        options: of the run.
        steps_per_epoch: after how many steps the schedule counts an epoch.
        devices: what computes; ``None`` for all devices.
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
        # Filled up, so that every device has as many images.
        self._size = -(-options.batch_size // self._devices.count) * self._devices.count
        self._schedule = learning_rate_schedule(options, steps_per_epoch)
        self._solver = make_solver(options, self._schedule, network.factors)
        everywhere = self._devices.everywhere
        self._jit_step = jax.jit(self._step, out_shardings=everywhere)
        self._jit_evaluate = jax.jit(self._evaluate, out_shardings=everywhere)

    def begin(self, seed: int) -> State:
        """The state before the first step."""
        params, batch_stats = self._network.initialize(seed)
        state = State(params, batch_stats, self._solver.init(params), jnp.zeros(2, jnp.float32))
        return self.place(state)

    def place(self, tree: Tree) -> Tree:
        """Brings arrays, of a checkpoint for example, to where the steps take them from."""
        return self._devices.replicate(tree)

    def step(self, state: State, batch: np.ndarray) -> State:
        """Takes one step on the images with the indices ``batch``, no more than make a batch."""
        return self._jit_step(state, *self._batch(batch))

    def evaluate(self, params: Arrays, batch_stats: Arrays, indices: np.ndarray) -> Evaluation:
        """Evaluates on the images with the given indices."""
        losses, answers = [], []
        for start in range(0, len(indices), self._size):
            images, labels, _ = self._batch(indices[start : start + self._size])
            loss, answer = self._jit_evaluate(params, batch_stats, images, labels)
            losses.append(loss)
            answers.append(answer)
        # What the last batch was filled up with is cut off again.
        loss_of_each = np.concatenate(losses)[: len(indices)]
        answer_to_each = np.concatenate(answers)[: len(indices)]
        right = answer_to_each == self._data.labels[indices]
        return Evaluation(float(loss_of_each.mean()), float(right.mean()), answer_to_each)

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step."""
        return float(self._schedule(step))

    def _batch(self, indices: np.ndarray) -> list[jax.Array]:
        """Images, labels and a mask, filled up to one size so that there is one compilation."""
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
            right = logits.argmax(-1).astype(labels.dtype) == labels
            sums = losses.sum(where=mask), right.sum(where=mask, dtype=jnp.float32)
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
    """Brings uint8 pixels to the interval from 0 to 1, where floats are already."""
    return images if images.dtype == jnp.float32 else images.astype(jnp.float32) / PIXEL_MAXIMUM


def learning_rate_schedule(options: Options, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate by step: constant, or a tenth of it every ten epochs."""
    assert options.learning_rate is not None
    if options.schedule == "none":
        return optax.constant_schedule(options.learning_rate)
    return optax.exponential_decay(
        options.learning_rate, DROP_PERIOD * steps_per_epoch, DROP_FACTOR, staircase=True
    )


def make_solver(
    options: Options, schedule: optax.Schedule, factors: optim.Factors
) -> optax.GradientTransformation:
    """The solver that the options name."""
    if options.solver == "sgdm":
        assert options.momentum is not None
        return optim.sgdm(schedule, options.momentum, l2_regularization=options.l2, factors=factors)
    solver = optim.adam if options.solver == "adam" else optim.rmsprop
    return solver(schedule, l2_regularization=options.l2, factors=factors)
