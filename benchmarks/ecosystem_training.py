"""Training steps and per-sample gradients of networks from other libraries."""

import math
import os
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax.contrib

import grouped_conv_jax as gcj

CLASSES = 1000
_LEARNING_RATE = 0.1
# (channels, stride) of the blocks of the small networks, like the first blocks of MobileNet.
_BLOCKS = ((32, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1))
# Relative error of gradients; batch normalization amplifies rounding errors from layer to layer.
_GRADIENTS_LIMIT = 0.03
ROUNDING_LIMIT = 1e-4
"""The largest relative error of single convolutions and short networks."""
_SECONDS_A_BLOCK = 0.5
_CLIP = 1.0

Outcome: TypeAlias = tuple[bool, str]
"""Whether a check passes, and a figure or the reason."""


def distance(result: Any, reference: Any) -> float:
    """Returns the norm of the difference of two pytrees, relative to that of the reference."""
    difference = jax.tree.map(lambda a, b: jnp.asarray(a) - jnp.asarray(b), result, reference)
    return float(optax.global_norm(difference) / optax.global_norm(reference))


def largest(errors: Sequence[float]) -> float:
    """Returns the largest error; NaN if one is NaN, 0 if there are none."""
    return float(np.max([0.0, *errors]))


def lower_quartiles(programs: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Returns the seconds per call of each program, timed in alternating blocks of calls."""
    counts = []
    for program in programs:
        jax.block_until_ready(program())
        start = time.perf_counter()
        jax.block_until_ready(program())
        counts.append(max(1, int(_SECONDS_A_BLOCK / (time.perf_counter() - start))))
    blocks: list[list[float]] = [[] for _ in programs]
    for _ in range(rounds):
        for program, count, own in zip(programs, counts, blocks, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                jax.block_until_ready(program())
            own.append((time.perf_counter() - start) / count)
    return [float(np.quantile(own, 0.25)) for own in blocks]


def compiled(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """Compiles a function for its arguments and binds it to them."""
    executable = jax.jit(function).lower(*arguments).compile()
    return lambda: executable(*arguments)


def replaced(function: Callable[..., Any], *arguments: Any) -> tuple[int, int]:
    """Returns the number of replaced convolutions of a function, and the number of all."""
    names = [told.implementation for told in gcj.explain(function, *arguments)]
    return sum(name != "lax" for name in names), len(names)


class Network(NamedTuple):
    """An initialized network.

    Attributes:
        parameters: the trainable parameters.
        loss: maps ``(parameters, images, labels)`` to a scalar.
    """

    parameters: Any
    loss: Callable[..., jax.Array]


def training_step(network: Network) -> Callable[..., Any]:
    """Returns an SGD step from (parameters, images, labels) to (loss, gradients, parameters)."""
    solver = optax.sgd(_LEARNING_RATE)
    state = solver.init(network.parameters)

    def step(parameters: Any, images: jax.Array, labels: jax.Array) -> Any:
        loss, gradients = jax.value_and_grad(network.loss)(parameters, images, labels)
        updates, _ = solver.update(gradients, state, parameters)
        return loss, gradients, optax.apply_updates(parameters, updates)

    return step


def examples(images: int, pixels: int) -> tuple[jax.Array, jax.Array]:
    """Returns normally distributed images ``(B, H, W, 3)`` and their labels."""
    key = jax.random.key(0)
    labels = jax.random.randint(key, (images,), 0, CLASSES)
    return jax.random.normal(key, (images, pixels, pixels, 3)), labels


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def keras_mobilenet_v2(pixels: int) -> Network:
    """Returns ``keras.applications.MobileNetV2`` in training mode, on Keras's JAX backend."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    if keras.backend.backend() != "jax":
        raise RuntimeError(f"keras runs on {keras.backend.backend()!r}: it was imported before")
    model = keras.applications.MobileNetV2(
        (pixels, pixels, 3), weights=None, classes=CLASSES, classifier_activation=None
    )
    others = [variable.value for variable in model.non_trainable_variables]

    def loss(parameters: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits, _ = model.stateless_call(parameters, others, images, training=True)
        return _cross_entropy(logits, labels)

    return Network([variable.value for variable in model.trainable_variables], loss)


def haiku_mobilenet_v1(pixels: int) -> Network:
    """Returns a small ``haiku.nets.MobileNetV1`` in training mode."""
    import haiku as hk

    def forward(images: jax.Array) -> jax.Array:
        channels, strides = zip(*_BLOCKS, strict=True)
        return hk.nets.MobileNetV1(strides, channels, CLASSES)(images, is_training=True)

    model = hk.transform_with_state(forward)
    image, _ = examples(1, pixels)
    parameters, state = jax.jit(model.init)(jax.random.key(0), image)

    def loss(parameters: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits, _ = model.apply(parameters, state, None, images)
        return _cross_entropy(logits, labels)

    return Network(parameters, loss)


def equinox_mobilenet(pixels: int) -> Network:
    """Returns depthwise separable blocks of ``equinox.nn``, channels first, under ``vmap``."""
    del pixels
    import equinox as eqx

    keys = iter(jax.random.split(jax.random.key(0), 2 * len(_BLOCKS) + 2))

    def normalized(convolution: Any) -> list[Any]:
        norm = eqx.nn.GroupNorm(math.gcd(8, convolution.out_channels), convolution.out_channels)
        return [convolution, norm, eqx.nn.Lambda(jax.nn.relu)]

    width = 16
    layers = normalized(eqx.nn.Conv2d(3, width, 3, 2, 1, key=next(keys)))
    for channels, stride in _BLOCKS:
        depthwise = eqx.nn.Conv2d(width, width, 3, stride, 1, groups=width, key=next(keys))
        pointwise = eqx.nn.Conv2d(width, channels, 1, key=next(keys))
        layers += normalized(depthwise) + normalized(pointwise)
        width = channels
    layers += [eqx.nn.AdaptiveAvgPool2d(1), eqx.nn.Lambda(jnp.ravel)]
    model = eqx.nn.Sequential([*layers, eqx.nn.Linear(width, CLASSES, key=next(keys))])
    parameters, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(parameters: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        network = eqx.combine(parameters, static)
        return _cross_entropy(jax.vmap(network)(jnp.moveaxis(images, -1, 1)), labels)

    return Network(parameters, loss)


def check_training(make: Callable[[int], Network], options: Namespace) -> Outcome:
    """Compares results and times of a training step with and without ``accelerate``."""
    network = make(options.pixels)
    step = training_step(network)
    arguments = (network.parameters, *examples(options.images, options.pixels))
    fast_step = gcj.accelerate(step)
    fast_ones, all_of_them = replaced(fast_step, *arguments)
    plain, fast = compiled(step, *arguments), compiled(fast_step, *arguments)
    (loss, gradients, new), (fast_loss, fast_gradients, fast_new) = plain(), fast()
    loss_error, gradients_error = distance(fast_loss, loss), distance(fast_gradients, gradients)
    plain_seconds, fast_seconds = lower_quartiles([plain, fast], options.rounds)
    figure = (
        f"{plain_seconds / fast_seconds:.2f} times as fast ({1e3 * plain_seconds:.0f} to "
        f"{1e3 * fast_seconds:.0f} ms); {fast_ones} of {all_of_them} convolutions replaced; "
        f"gradients differ by {gradients_error:.1e}, the loss by {loss_error:.1e}"
    )
    agrees = largest([loss_error, gradients_error, distance(fast_new, new)]) <= _GRADIENTS_LIMIT
    return agrees and fast_ones > 0, figure


class _Small(nn.Module):
    """Two depthwise separable convolutions and a classifier, in Flax alone."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for features in (32, 64):
            x = nn.Conv(features, (1, 1))(x)
            x = nn.relu(nn.Conv(features, (3, 3), 2, feature_group_count=features)(x))
        return nn.Dense(CLASSES)(jnp.mean(x, (-3, -2)))


def _sampled(options: Namespace) -> tuple[Any, Callable[..., jax.Array], tuple[Any, Any]]:
    """Returns parameters, the loss of one sample, and a batch of samples."""
    images, labels = examples(options.images, min(options.pixels, 64))
    model = _Small()
    parameters = model.init(jax.random.key(1), images[:1])

    def loss(parameters: Any, image: jax.Array, label: jax.Array) -> jax.Array:
        logits = model.apply(parameters, image)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, label))

    return parameters, loss, (images, labels)


def _compare_private(of_samples: Callable[..., Any], options: Namespace) -> Outcome:
    """Compares results and times of ``of_samples(loss)`` with and without ``accelerate``."""
    parameters, loss, samples = _sampled(options)
    arguments = (parameters, *samples)
    private = of_samples(loss)
    programs = [private, gcj.accelerate(private), gcj.accelerate(jax.grad(loss))]
    fast_ones, all_of_them = replaced(programs[1], *arguments)
    plain, fast, batch = (compiled(program, *arguments) for program in programs)
    error = distance(fast(), plain())
    seconds = lower_quartiles([plain, fast, batch], options.rounds)
    figure = (
        f"{seconds[1] / seconds[0]:.2f} of the time without ({1e3 * seconds[0]:.1f} to "
        f"{1e3 * seconds[1]:.1f} ms), {seconds[1] / seconds[2]:.2f} of the gradient of the "
        f"batch; {fast_ones} of {all_of_them} convolutions replaced; result differs by {error:.1e}"
    )
    return error <= ROUNDING_LIMIT and fast_ones > 0, figure


def check_optax(options: Namespace) -> Outcome:
    """Checks ``vmap(grad)`` followed by ``optax.contrib.dpsgd`` without noise."""
    solver = optax.contrib.dpsgd(0.1, l2_norm_clip=_CLIP, noise_multiplier=0.0, seed=0)

    def of_samples(loss: Callable[..., jax.Array]) -> Callable[..., Any]:
        gradients = jax.vmap(jax.grad(loss), (None, 0, 0))

        def update(parameters: Any, images: jax.Array, labels: jax.Array) -> Any:
            each = gradients(parameters, images, labels)
            return solver.update(each, solver.init(parameters), parameters)[0]

        return update

    return _compare_private(of_samples, options)


def check_jax_privacy(options: Namespace) -> Outcome:
    """Checks ``jax_privacy.clipped_grad``, the sum of clipped per-sample gradients."""
    import jax_privacy

    return _compare_private(
        lambda loss: jax_privacy.clipped_grad(loss, l2_clip_norm=_CLIP, batch_argnums=(1, 2)),
        options,
    )
