"""Solvers: stochastic gradient descent with momentum, Adam, RMSProp.

The formulas are those of MATLAB's Deep Learning Toolbox (``trainingOptions``). A step adds the L2
regularization to the gradient, clips it, applies the solver's rule, and then applies the factors.

Numbers may be arrays with no axes. The values of traced numbers, from ``jax.vmap`` over rates or
from ``optax.inject_hyperparams`` under ``jax.jit``, are unknown and not checked.
``inject_hyperparams`` rounds numbers to the dtype of the parameters, and 0.999 to 1 in bfloat16;
pass it ``hyperparam_dtype=jnp.float32`` for 16-bit parameters.
"""

import math

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from grouped_conv_jax import _checks
from grouped_conv_jax.optim import _arguments
from grouped_conv_jax.optim._arguments import Number
from grouped_conv_jax.optim._clipping import ThresholdMethod, clip_by_threshold, threshold_method
from grouped_conv_jax.optim._factors import Factors, for_each_factor
from grouped_conv_jax.optim._precision import at_least_float32
from grouped_conv_jax.optim._regularization import add_l2_regularization
from grouped_conv_jax.optim._rules import (
    accumulate,
    scale_by_adam,
    scale_by_learning_rate,
    scale_by_rms,
)


def scale_by_learn_rate_factors(
    factors: Factors | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies the update of each learnable by its learning-rate factor.

    Args:
        factors: the factors of the learnables, or ``None`` for 1 everywhere.

    Returns:
        A transformation. If the factor is 0, the update is exactly 0, even where it was NaN.

    Raises:
        TypeError: a factor is not a real number, or ``factors`` are not ``Factors``.
        ValueError: a factor is negative or not finite; in ``init`` and ``update``, the factors do
            not have the structure of the parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from grouped_conv_jax.optim import Factors, scale_by_learn_rate_factors
        >>> factors = Factors(learn_rate={"a": 0.0, "b": 2.0}, l2={"a": 1.0, "b": 1.0})
        >>> scale = scale_by_learn_rate_factors(factors)
        >>> updates = {"a": jnp.array([jnp.nan]), "b": jnp.array([1.5])}
        >>> updates, _ = scale.update(updates, scale.init(updates))
        >>> updates["a"].tolist(), updates["b"].tolist()
        ([0.0], [3.0])
    """
    return for_each_factor(
        factors,
        "learn_rate",
        lambda factor: optax.scale(factor) if factor else optax.set_to_zero(),
    )


def sgdm(
    learning_rate: optax.ScalarOrSchedule = 0.01,
    momentum: ArrayLike = 0.9,
    *,
    l2_regularization: ArrayLike = 1e-4,
    gradient_threshold: ArrayLike = math.inf,
    gradient_threshold_method: ThresholdMethod = "l2norm",
    factors: Factors | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Stochastic gradient descent with momentum.

    ``v <- momentum * v - learning_rate * factor * g`` and ``w <- w + v``. The velocity includes the
    learning rate, unlike that of ``optax.sgd``; the two differ if the rate changes.

    Args:
        learning_rate: a nonnegative number, or an optax schedule of the number of steps.
        momentum: from 0 to 1.
        l2_regularization: as in :func:`add_l2_regularization`.
        gradient_threshold: as in :func:`clip_by_threshold`.
        gradient_threshold_method: as in :func:`clip_by_threshold`.
        factors: the factors of the learnables, or ``None`` for 1 everywhere. A learnable with
            learning-rate factor 0 never changes, whatever its gradient. ``"global-l2norm"`` counts
            the finite elements of its gradient.

    Returns:
        A transformation whose ``update`` needs the parameters. For 16-bit parameters, it computes
        and stores its state in float32. Gradients of complex parameters must be in the direction of
        ascent, as in optax: the conjugates of the results of ``jax.grad``.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument is out of its range; in ``init`` and ``update``, the factors do not
            have the structure of the parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from grouped_conv_jax.optim import sgdm
        >>> params = {"weights": jnp.array([1.0, -1.0])}
        >>> solver = sgdm(0.5, momentum=0.5, l2_regularization=0.0)
        >>> state = solver.init(params)
        >>> for _ in range(2):
        ...     updates, state = solver.update({"weights": jnp.array([1.0, 0.0])}, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> params["weights"].tolist()
        [-0.25, -1.0]
    """
    learning_rate = _arguments.learning_rate("learning_rate", learning_rate)
    momentum = _arguments.number("momentum", momentum, _checks.FROM_0_TO_1)
    return at_least_float32(
        optax.chain(
            _prepare(l2_regularization, gradient_threshold, gradient_threshold_method, factors),
            scale_by_learn_rate_factors(factors),
            scale_by_learning_rate(learning_rate),
            accumulate(momentum),
        )
    )


def adam(
    learning_rate: optax.ScalarOrSchedule = 0.001,
    gradient_decay_factor: ArrayLike = 0.9,
    squared_gradient_decay_factor: ArrayLike = 0.999,
    epsilon: ArrayLike = 1e-8,
    *,
    l2_regularization: ArrayLike = 1e-4,
    gradient_threshold: ArrayLike = math.inf,
    gradient_threshold_method: ThresholdMethod = "l2norm",
    factors: Factors | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam.

    In step ``t`` the update is ``-learning_rate * factor * sqrt(1 - b2^t) / (1 - b1^t) *
    m / (sqrt(v) + epsilon)``, with the decay factors ``b1`` and ``b2`` of the moving averages ``m``
    and ``v`` of gradient and squared gradient. ``epsilon`` is not bias-corrected, as in the formula
    at the end of section 2 of Kingma and Ba, "Adam: A method for stochastic optimization" (2015).
    ``optax.adam`` instead adds ``epsilon`` after the correction of ``v``.

    Args:
        learning_rate: a nonnegative number, or an optax schedule of the number of steps.
        gradient_decay_factor: ``b1``, at least 0 and below 1.
        squared_gradient_decay_factor: ``b2``, at least 0 and below 1.
        epsilon: a positive number.
        l2_regularization: as in :func:`add_l2_regularization`.
        gradient_threshold: as in :func:`clip_by_threshold`.
        gradient_threshold_method: as in :func:`clip_by_threshold`.
        factors: as in :func:`sgdm`.

    Returns:
        A transformation, as from :func:`sgdm`.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument is out of its range; in ``init`` and ``update``, the factors do not
            have the structure of the parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from grouped_conv_jax.optim import adam
        >>> params = {"weights": jnp.array([0.0, 0.0])}
        >>> solver = adam(0.125)
        >>> gradients = {"weights": jnp.array([3.0, -0.5])}
        >>> updates, _ = solver.update(gradients, solver.init(params), params)
        >>> updates["weights"].round(4).tolist()
        [-0.125, 0.125]
    """
    b1 = _decay_factor("gradient_decay_factor", gradient_decay_factor)
    b2 = _decay_factor("squared_gradient_decay_factor", squared_gradient_decay_factor)
    epsilon = _arguments.number("epsilon", epsilon, _checks.POSITIVE)
    learning_rate = _arguments.learning_rate("learning_rate", learning_rate)
    return at_least_float32(
        optax.chain(
            _prepare(l2_regularization, gradient_threshold, gradient_threshold_method, factors),
            scale_by_adam(b1, b2, epsilon),
            scale_by_learn_rate_factors(factors),
            scale_by_learning_rate(learning_rate),
        )
    )


def rmsprop(
    learning_rate: optax.ScalarOrSchedule = 0.001,
    squared_gradient_decay_factor: ArrayLike = 0.9,
    epsilon: ArrayLike = 1e-8,
    *,
    l2_regularization: ArrayLike = 1e-4,
    gradient_threshold: ArrayLike = math.inf,
    gradient_threshold_method: ThresholdMethod = "l2norm",
    factors: Factors | None = None,
) -> optax.GradientTransformationExtraArgs:
    """RMSProp.

    The update is ``-learning_rate * factor * g / (sqrt(v) + epsilon)``. The moving average ``v`` of
    the squared gradient starts at zero and is not bias-corrected.

    Args:
        learning_rate: a nonnegative number, or an optax schedule of the number of steps.
        squared_gradient_decay_factor: decay factor of the moving average, at least 0 and below 1.
        epsilon: a positive number.
        l2_regularization: as in :func:`add_l2_regularization`.
        gradient_threshold: as in :func:`clip_by_threshold`.
        gradient_threshold_method: as in :func:`clip_by_threshold`.
        factors: as in :func:`sgdm`.

    Returns:
        A transformation, as from :func:`sgdm`.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument is out of its range; in ``init`` and ``update``, the factors do not
            have the structure of the parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from grouped_conv_jax.optim import rmsprop
        >>> params = {"weights": jnp.array([0.0, 0.0])}
        >>> solver = rmsprop(0.125, squared_gradient_decay_factor=0.75)
        >>> gradients = {"weights": jnp.array([3.0, -0.5])}
        >>> updates, _ = solver.update(gradients, solver.init(params), params)
        >>> updates["weights"].round(4).tolist()
        [-0.25, 0.25]
    """
    decay = _decay_factor("squared_gradient_decay_factor", squared_gradient_decay_factor)
    epsilon = _arguments.number("epsilon", epsilon, _checks.POSITIVE)
    learning_rate = _arguments.learning_rate("learning_rate", learning_rate)
    return at_least_float32(
        optax.chain(
            _prepare(l2_regularization, gradient_threshold, gradient_threshold_method, factors),
            scale_by_rms(decay, epsilon),
            scale_by_learn_rate_factors(factors),
            scale_by_learning_rate(learning_rate),
        )
    )


def _prepare(
    l2_regularization: ArrayLike,
    gradient_threshold: ArrayLike,
    gradient_threshold_method: ThresholdMethod,
    factors: Factors | None,
) -> optax.GradientTransformation:
    """Regularizes and clips the gradients, before a solver's own rule."""
    l2 = _arguments.number("l2_regularization", l2_regularization, _checks.NONNEGATIVE)
    threshold = _arguments.number("gradient_threshold", gradient_threshold, _checks.THRESHOLD)
    method = threshold_method("gradient_threshold_method", gradient_threshold_method)
    return optax.chain(
        _drop_nonfinite_where_frozen(factors),
        add_l2_regularization(l2, factors),
        clip_by_threshold(threshold, method),
    )


def _decay_factor(name: str, value: ArrayLike) -> Number:
    return _arguments.number(name, value, _checks.FROM_0_BELOW_1)


def _drop_nonfinite_where_frozen(factors: Factors | None) -> optax.GradientTransformation:
    # A NaN or an infinity would make the global norm NaN, and persist in the moments of a solver.
    drop = optax.stateless(
        lambda updates, _: jax.tree.map(
            lambda u: jnp.nan_to_num(u, nan=0.0, posinf=0.0, neginf=0.0), updates
        )
    )
    return for_each_factor(
        factors, "learn_rate", lambda factor: optax.identity() if factor else drop
    )
