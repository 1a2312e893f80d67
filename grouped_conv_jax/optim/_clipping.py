"""Gradient clipping by a threshold."""

import math
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax

from grouped_conv_jax import _checks
from grouped_conv_jax.optim import _arguments
from grouped_conv_jax.optim._precision import at_least_float32

ThresholdMethod: TypeAlias = Literal["l2norm", "global-l2norm", "absolute-value"]


def clip_by_threshold(
    threshold: float, method: ThresholdMethod = "l2norm"
) -> optax.GradientTransformation:
    """Clips gradients that are strictly above a threshold.

    Args:
        threshold: positive; infinity is off.
        method: ``"l2norm"`` scales each learnable whose own L2 norm is above the threshold down to
            it; ``"global-l2norm"`` scales all learnables by one number where the norm of all
            together is above it; ``"absolute-value"`` replaces each element that is above it in
            magnitude by the threshold, with the element's sign.

    Returns:
        A transformation. A gradient at or below the threshold passes unchanged, to the last bit; a
        norm that is NaN is not above the threshold.

    Raises:
        TypeError: ``threshold`` is not a real number or ``method`` not a string.
        ValueError: ``threshold`` is not positive or there is no such method.

    Example:
        >>> import jax.numpy as jnp
        >>> from grouped_conv_jax.optim import clip_by_threshold
        >>> clip = clip_by_threshold(1.0)
        >>> gradients = {"long": jnp.array([0.0, 8.0]), "short": jnp.array([0.5, 0.25])}
        >>> updates, _ = clip.update(gradients, clip.init(gradients))
        >>> updates["long"].tolist(), updates["short"].tolist()
        ([0.0, 1.0], [0.5, 0.25])
    """
    threshold = _arguments.threshold("threshold", threshold)
    method = threshold_method("method", method)
    if threshold == math.inf:
        return optax.identity()
    if method == "absolute-value":
        return optax.clip(threshold)
    if method == "global-l2norm":
        return at_least_float32(_clip_by_norm(threshold))
    return at_least_float32(_each_learnable(_clip_by_norm(threshold)))


def threshold_method(name: str, value: str) -> ThresholdMethod:
    """Returns the method that a word means, in any case and with or without hyphens."""
    return _checks.word(name, value, get_args(ThresholdMethod))  # type: ignore[return-value]


def _clip_by_norm(threshold: float) -> optax.GradientTransformation:
    clip = optax.clip_by_global_norm(threshold)

    def update(updates: optax.Updates, _: optax.Params | None) -> optax.Updates:
        clipped, _ = clip.update(updates, optax.EmptyState())
        # optax also divides by a norm that equals the threshold or is NaN.
        above = optax.tree.norm(updates) > threshold
        return jax.tree.map(lambda c, u: jnp.where(above, c, u), clipped, updates)

    return optax.stateless(update)


def _each_learnable(clip: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda u: clip.update(u, optax.EmptyState())[0], updates)
    )
