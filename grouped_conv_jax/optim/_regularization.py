"""L2 regularization, coupled: in the gradient or in the loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from grouped_conv_jax.optim import _arguments
from grouped_conv_jax.optim._factors import (
    Factors,
    by_path,
    check_structure,
    factors_by_path,
    for_each_factor,
)
from grouped_conv_jax.optim._precision import widen


def add_l2_regularization(
    l2: float, factors: Factors | None = None
) -> optax.GradientTransformation:
    """Adds ``l2 * factor * w`` to each gradient.

    The regularization is coupled: it enters the clipping and the moments of what follows, unlike
    the decay in ``optax.adamw``. It is the gradient of :func:`l2_loss`.

    Args:
        l2: the regularization; nonnegative.
        factors: of each learnable; ``None`` for one everywhere.

    Returns:
        A transformation whose ``update`` needs the parameters.

    Raises:
        TypeError: ``l2`` or a factor is not a real number, or ``factors`` are not ``Factors``.
        ValueError: ``l2`` or a factor is negative or not finite; in ``init`` and ``update``, the
            factors do not have the structure of the parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from grouped_conv_jax.optim import add_l2_regularization
        >>> params = {"weights": jnp.array([2.0, -4.0])}
        >>> regularize = add_l2_regularization(0.5)
        >>> gradients = {"weights": jnp.array([10.0, 10.0])}
        >>> updates, _ = regularize.update(gradients, regularize.init(params), params)
        >>> updates["weights"].tolist()
        [11.0, 8.0]
    """
    l2 = _arguments.nonnegative("l2", l2)
    # Nothing to add is left out whole: zero times an infinite weight would be NaN.
    return for_each_factor(
        factors,
        "l2",
        lambda factor: optax.add_decayed_weights(l2 * factor) if l2 * factor else optax.identity(),
    )


def l2_loss(params: optax.Params, l2: float, factors: Factors | None = None) -> jax.Array:
    """Sums ``1/2 * l2 * factor * ||w||^2`` over the learnables.

    Args:
        params: the parameters: a dictionary, or an NNX state.
        l2: the regularization; nonnegative.
        factors: of each learnable; ``None`` for one everywhere.

    Returns:
        A scalar, float32 or the widest dtype of the parameters.

    Raises:
        TypeError: ``l2`` or a factor is not a real number, or ``factors`` are not ``Factors``.
        ValueError: ``l2`` or a factor is negative or not finite, or the factors do not have the
            structure of the parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from grouped_conv_jax.optim import l2_loss
        >>> float(l2_loss({"weights": jnp.array([3.0, 4.0])}, 0.1))
        1.25
    """
    l2 = _arguments.nonnegative("l2", l2)
    learnables = by_path(params)
    factor_at = dict.fromkeys(learnables, 1.0)
    if factors is not None:
        factor_at = factors_by_path(factors, "l2")
        check_structure("factors.l2", factor_at, learnables)
    terms = [
        0.5 * l2 * factor_at[path] * jnp.sum(jnp.square(array))
        for path, learnable in learnables.items()
        if l2 * factor_at[path]
        for array in jax.tree.leaves(widen(learnable))
    ]
    dtype = functools.reduce(np.promote_types, (t.dtype for t in terms), np.dtype(np.float32))
    return sum((t.astype(dtype) for t in terms), start=jnp.zeros((), dtype))
