"""Training of layer arrays."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax

import grouped_conv_jax.linen
from grouped_conv_jax.matlab import _images, _population
from grouped_conv_jax.matlab._image_input import ImageInputLayer
from grouped_conv_jax.matlab._layer_array import LayerArray
from grouped_conv_jax.matlab._layer_array import layers as make_layers
from grouped_conv_jax.matlab._progress import Progress
from grouped_conv_jax.matlab._simple_layers import (
    ClassificationOutputLayer,
    SoftmaxLayer,
)
from grouped_conv_jax.matlab._trained_network import TrainedNetwork, forward
from grouped_conv_jax.matlab._training_options import TrainingOptions


def trainNetwork(  # noqa: N802
    images: Any, labels: Any, layers: Any, options: TrainingOptions, *, data_format: str = "BSSC"
) -> TrainedNetwork:
    """Trains a network to classify images.

    Each epoch splits the images into mini-batches of ``MiniBatchSize`` and drops an incomplete last
    one, as MATLAB does. The loss is the mean cross-entropy. The learning-rate and L2 factors are
    those of the layers. After training, batch normalizations use statistics of all training images,
    or the running ones if ``BatchNormalizationStatistics`` is ``'moving'``.

    Args:
        images: integers or floating-point numbers, ``(B, H, W, C)`` unless ``data_format`` says
            otherwise; converted to float32.
        labels: ``(B,)``, of any type that ``np.unique`` sorts.
        layers: a layer array or a list of layers, from an image input to a softmax and a
            classification output.
        options: training options from `trainingOptions`.
        data_format: one letter for each axis of the images.

    Returns:
        The trained network, for `classify` and `predict`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the layers are not such a network; the images, labels and layers do not match;
            or there are fewer images than one mini-batch.

    Example:
        >>> import numpy as np
        >>> from grouped_conv_jax.matlab import *
        >>> images = np.zeros((32, 4, 4, 1), np.float32)
        >>> images[16:, 2:] = 1
        >>> labels = np.repeat(["top", "bottom"], 16)
        >>> network = layers(
        ...     imageInputLayer([4, 4, 1]),
        ...     fullyConnectedLayer(2),
        ...     softmaxLayer,
        ...     classificationLayer,
        ... )
        >>> options = trainingOptions("adam", MiniBatchSize=16, Verbose=False)
        >>> trained = trainNetwork(images, labels, network, options)
        >>> classify(trained, images[[0, 31]]).tolist()
        ['top', 'bottom']
    """
    if not isinstance(options, TrainingOptions):
        raise TypeError(f"options must be from trainingOptions, got {type(options).__name__}")
    network = make_layers(layers)
    data = _dataset("images", "labels", images, labels, data_format)
    classes = _prepare(network, data, options)
    training = data.with_indices(classes)
    validation = None
    if options.ValidationData is not None:
        held_out, answers = options.ValidationData
        found = _dataset("ValidationData[0]", "ValidationData[1]", held_out, answers, data_format)
        validation = found.with_indices(classes)
    return _Training(network, training, validation, options).run()


class _Dataset(NamedTuple):
    """Images ``(B, H, W, C)`` and their labels or class indices."""

    images: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    name: str

    def with_indices(self, classes: npt.NDArray[Any]) -> "_Dataset":
        """Replaces the labels by indices into ``classes``."""
        unknown = np.setdiff1d(self.labels, classes)
        if len(unknown):
            raise ValueError(
                f"{self.name} must be among the network's classes {classes.tolist()}, "
                f"got {unknown.tolist()}"
            )
        order = np.argsort(classes)
        indices = order[np.searchsorted(classes, self.labels, sorter=order)]
        return self._replace(labels=indices.astype(np.int32))


def _dataset(
    images_name: str, labels_name: str, images: Any, labels: Any, data_format: str
) -> _Dataset:
    canonical = _images.check_batch(images_name, images, data_format)
    given = np.asarray(labels)
    if given.ndim != 1 or len(given) != len(canonical):
        raise ValueError(
            f"{labels_name} must be a 1-D array with a label for each of {len(canonical)} images, "
            f"got shape {given.shape}"
        )
    return _Dataset(canonical, given, labels_name)


def _prepare(network: LayerArray, data: _Dataset, options: TrainingOptions) -> npt.NDArray[Any]:
    """Sets the classes and the input statistics from the data; returns the classes."""
    ends = [SoftmaxLayer, ClassificationOutputLayer]
    if [type(layer) for layer in network[-2:]] != ends or len(network) < 3:
        raise ValueError(
            "layers must end with softmaxLayer and classificationLayer, "
            f"got {', '.join(layer._title for layer in network[-2:])}"
        )
    image_input, output = network[0], network[-1]
    if not isinstance(image_input, ImageInputLayer):
        raise ValueError(f"layers must begin with imageInputLayer, got {image_input._title}")
    if data.images.shape[1:] != image_input.InputSize:
        raise ValueError(
            f"images must be of InputSize={image_input.InputSize}, got {data.images.shape[1:]}"
        )
    if len(data.images) < options.MiniBatchSize:
        raise ValueError(
            f"MiniBatchSize must be at most the number of images, {len(data.images)}, "
            f"got {options.MiniBatchSize}"
        )
    if isinstance(output.Classes, str):
        output.Classes = np.unique(data.labels)
    activations, _ = network._infer_sizes()[-1]
    if activations != (len(output.Classes),):
        raise ValueError(
            f"layers must have an output for each of {len(output.Classes)} classes, "
            f"got outputs of size {activations}"
        )
    if options.ResetInputNormalization or not image_input.is_measured():
        image_input.measure(data.images)
    return output.Classes


class _State(NamedTuple):
    """The state that an iteration updates."""

    params: Any
    statistics: Any
    solver: optax.OptState


class _Training:
    """Trains a network on a data set with the solver of the options."""

    def __init__(
        self,
        network: LayerArray,
        training: _Dataset,
        validation: _Dataset | None,
        options: TrainingOptions,
    ) -> None:
        self._network, self._module = network, network.to_linen()
        self._training, self._validation, self._options = training, validation, options
        self._iterations = len(training.images) // options.MiniBatchSize
        self._key = jax.random.key(options.Seed)
        example = jax.ShapeDtypeStruct((1, *training.images.shape[1:]), jnp.float32)
        factors = grouped_conv_jax.linen.learnable_factors(self._module, self._key, example)
        self._solver = options.make_solver(self._iterations, factors)
        self._jit_step = jax.jit(self._step, donate_argnums=0)

    def run(self) -> TrainedNetwork:
        """Trains, and returns the network."""
        options = self._options
        progress = Progress(bool(options.Verbose), self._validation is not None)
        progress.begin()
        state, rows = self._begin(), []
        rate = options.learn_rate(self._iterations)
        last = options.MaxEpochs * self._iterations
        for iteration, (epoch, batch) in enumerate(self._batches(), 1):
            state, loss, accuracy = self._jit_step(
                state,
                iteration,
                self._training.images[batch].astype(np.float32),
                self._training.labels[batch],
            )
            ends = iteration in (1, last)
            row = {
                "TrainingLoss": loss,
                "TrainingAccuracy": accuracy,
                "BaseLearnRate": float(rate(iteration - 1)),
                **self._validate(state, ends or iteration % options.ValidationFrequency == 0),
            }
            rows.append(row)
            if ends or iteration % options.VerboseFrequency == 0:
                progress.line(epoch, iteration, {name: float(row[name]) for name in row})
        progress.end()
        info = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
        return TrainedNetwork(self._network, self._finalize(state), info)

    def _begin(self) -> _State:
        example = jnp.zeros((1, *self._training.images.shape[1:]), jnp.float32)
        given = any(
            layer._values[n] is not None for layer in self._network for n in layer._learnables
        )
        # Under jit, given weights would become constants and bloat the program.
        init = self._module.init if given else jax.jit(self._module.init)
        variables = init(self._key, example)
        params = variables.get("params", {})
        return _State(params, variables.get("batch_stats", {}), self._solver.init(params))

    def _batches(self) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
        """Yields the number of the epoch and the image indices of each mini-batch."""
        generator = np.random.default_rng(self._options.Seed)
        size, order = self._options.MiniBatchSize, np.arange(len(self._training.images))
        for epoch in range(1, self._options.MaxEpochs + 1):
            if self._options.Shuffle == "every-epoch" or (
                self._options.Shuffle == "once" and epoch == 1
            ):
                order = generator.permutation(order)
            for i in range(self._iterations):
                yield epoch, order[i * size : (i + 1) * size]

    def _step(
        self, state: _State, iteration: jax.Array, images: jax.Array, labels: jax.Array
    ) -> tuple[_State, jax.Array, jax.Array]:
        def mean_loss(params: Any) -> tuple[jax.Array, Any]:
            logits, changed = self._module.apply(
                {"params": params, "batch_stats": state.statistics},
                images,
                True,
                method="logits",
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.fold_in(self._key, iteration)},
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            accuracy = (logits.argmax(-1) == labels).mean()
            return losses.mean(), (changed.get("batch_stats", {}), 100 * accuracy)

        gradient = jax.value_and_grad(mean_loss, has_aux=True)
        (loss, (statistics, accuracy)), gradients = gradient(state.params)
        updates, solver = self._solver.update(gradients, state.solver, state.params)
        params = optax.apply_updates(state.params, updates)
        return _State(params, statistics, solver), loss, accuracy

    def _validate(self, state: _State, due: bool) -> dict[str, float]:
        if self._validation is None or not due:
            return {"ValidationLoss": np.nan, "ValidationAccuracy": np.nan}
        scores = forward(
            self._module, _variables(state), self._validation.images, self._options.MiniBatchSize
        )
        labels = self._validation.labels
        smallest = np.finfo(np.float32).tiny
        losses = -np.log(np.maximum(scores[np.arange(len(labels)), labels], smallest))
        correct = scores.argmax(-1) == labels
        return {"ValidationLoss": losses.mean(), "ValidationAccuracy": 100 * correct.mean()}

    def _finalize(self, state: _State) -> dict[str, Any]:
        """Returns the variables, with the batch statistics that the options select."""
        variables = _variables(state)
        if self._options.BatchNormalizationStatistics == "moving":
            return variables
        size, images = self._options.MiniBatchSize, self._training.images
        batches = (images[i * size : (i + 1) * size] for i in range(self._iterations))
        return _population.with_statistics(self._network, variables, batches)


def _variables(state: _State) -> dict[str, Any]:
    found = {"params": state.params, "batch_stats": state.statistics}
    return {kind: tree for kind, tree in found.items() if tree}
