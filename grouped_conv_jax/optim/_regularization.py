"""Coupled L2 regularization, in the gradient or in the loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from grouped_conv_jax import _checks
from grouped_conv_jax.optim import _arguments
from grouped_conv_jax.optim._arguments import Number
from grouped_conv_jax.optim._factors import (
    Factors,
    by_path,
    check_structure,
    factors_by_path,
    for_each_factor,
)
from grouped_conv_jax.optim._precision import as_dtype_of, squared_magnitude, widen


def add_l2_regularization(
    l2: ArrayLike, factors: Factors | None = None
) -> optax.GradientTransformationExtraArgs:
    """Adds ``l2 * factor * w`` to each gradient.

    The regularization is coupled: unlike the decay in ``optax.adamw``, it affects the clipping and
    the moments of subsequent transformations. The added term is the gradient of :func:`l2_loss`, or
    its conjugate for complex parameters, since optax expects gradients in the direction of ascent.

    Args:
        l2: the strength of the regularization; nonnegative.
        factors: the factors of the learnables, or ``None`` for 1 everywhere.

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
    l2 = _arguments.number("l2", l2, _checks.NONNEGATIVE)
    return for_each_factor(
        factors, "l2", lambda factor: optax.identity() if _is_off(l2, factor) else _add(l2, factor)
    )


def _is_off(l2: Number, factor: float) -> bool:
    """Whether to omit the term; zero times an infinite weight would be NaN."""
    return factor == 0 or (isinstance(l2, float) and l2 == 0)


def _where_on(l2: Number, term: jax.Array) -> jax.Array:
    """Omits ``term`` if the value of a traced ``l2`` is zero."""
    return term if isinstance(l2, float) else jnp.where(l2 == 0, jnp.zeros_like(term), term)


def _add(l2: Number, factor: float) -> optax.GradientTransformation:
    def add(update: jax.Array, w: jax.Array) -> jax.Array:
        return update + _where_on(l2, as_dtype_of(w, l2) * factor * w)

    def transform(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        if params is None:
            raise ValueError("params must be given to update for L2 regularization, got None")
        return jax.tree.map(add, updates, params)

    return optax.stateless(transform)


def l2_loss(params: optax.Params, l2: ArrayLike, factors: Factors | None = None) -> jax.Array:
    """Sums ``1/2 * l2 * factor * ||w||^2`` over the learnables.

    Args:
        params: the parameters: a dictionary, or an NNX state.
        l2: the strength of the regularization; nonnegative.
        factors: the factors of the learnables, or ``None`` for 1 everywhere.

    Returns:
        A scalar of the widest dtype of the parameters, at least float32.

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
    l2 = _arguments.number("l2", l2, _checks.NONNEGATIVE)
    learnables = by_path(params)
    factor_at = dict.fromkeys(learnables, 1.0)
    if factors is not None:
        factor_at = factors_by_path(factors, "l2")
        check_structure("factors.l2", factor_at, learnables)
    terms = [
        _half_square(l2, factor_at[path], array)
        for path, learnable in learnables.items()
        if not _is_off(l2, factor_at[path])
        for array in jax.tree.leaves(widen(learnable))
    ]
    dtype = functools.reduce(np.promote_types, (t.dtype for t in terms), np.dtype(np.float32))
    return sum((t.astype(dtype) for t in terms), start=jnp.zeros((), dtype))


def _half_square(l2: Number, factor: float, array: jax.Array) -> jax.Array:
    square = jnp.sum(squared_magnitude(array))
    return _where_on(l2, 0.5 * as_dtype_of(square, l2) * factor * square)
