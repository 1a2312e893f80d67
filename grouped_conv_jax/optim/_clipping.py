"""Gradient clipping by a threshold."""

import math
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from grouped_conv_jax import _checks
from grouped_conv_jax.optim import _arguments
from grouped_conv_jax.optim._arguments import Number
from grouped_conv_jax.optim._precision import as_dtype_of, at_least_float32

ThresholdMethod: TypeAlias = Literal["l2norm", "global-l2norm", "absolute-value"]


def clip_by_threshold(
    threshold: ArrayLike, method: ThresholdMethod = "l2norm"
) -> optax.GradientTransformationExtraArgs:
    """Clips gradients that exceed a threshold.

    Args:
        threshold: a positive number; infinity disables clipping.
        method: ``"l2norm"`` scales each gradient whose L2 norm exceeds the threshold, so that the
            norm equals the threshold. ``"global-l2norm"`` does so with the joint L2 norm of all
            gradients. ``"absolute-value"`` clips the magnitude of each element and keeps its sign,
            or its phase if it is complex.

    Returns:
        A transformation. Gradients that do not exceed the threshold, or whose norm is NaN, pass
        unchanged to the last bit.

    Raises:
        TypeError: ``threshold`` is not a real number or ``method`` not a string.
        ValueError: ``threshold`` is not positive, or there is no such method.

    Example:
        >>> import jax.numpy as jnp
        >>> from grouped_conv_jax.optim import clip_by_threshold
        >>> clip = clip_by_threshold(1.0)
        >>> gradients = {"long": jnp.array([0.0, 8.0]), "short": jnp.array([0.5, 0.25])}
        >>> updates, _ = clip.update(gradients, clip.init(gradients))
        >>> updates["long"].tolist(), updates["short"].tolist()
        ([0.0, 1.0], [0.5, 0.25])
    """
    threshold = _arguments.number("threshold", threshold, _checks.THRESHOLD)
    method = threshold_method("method", method)
    if isinstance(threshold, float) and threshold == math.inf:
        return optax.with_extra_args_support(optax.identity())
    if method == "absolute-value":
        return optax.with_extra_args_support(_each(lambda u: _clip_elements(u, threshold)))
    if method == "global-l2norm":
        return at_least_float32(optax.stateless(lambda u, _: _clip_by_norm(u, threshold)))
    return at_least_float32(_each(lambda u: _clip_by_norm(u, threshold)))


def threshold_method(name: str, value: str) -> ThresholdMethod:
    """Returns the method that ``value`` spells; case and hyphens do not matter."""
    return _checks.word(name, value, get_args(ThresholdMethod))  # type: ignore[return-value]


def _each(clip: Callable[[jax.Array], jax.Array]) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, _: jax.tree.map(clip, updates))


def _clip_elements(update: jax.Array, threshold: Number) -> jax.Array:
    magnitude = jnp.abs(update)
    above = magnitude > as_dtype_of(magnitude, threshold)
    return jnp.where(above, as_dtype_of(update, threshold) * jnp.sign(update), update)


def _clip_by_norm(updates: optax.Updates, threshold: Number) -> optax.Updates:
    norm = optax.tree.norm(updates)
    above = norm > as_dtype_of(norm, threshold)

    def clip(update: jax.Array) -> jax.Array:
        clipped = update / norm.astype(update.dtype) * as_dtype_of(update, threshold)
        return jnp.where(above, clipped, update)

    return jax.tree.map(clip, updates)
