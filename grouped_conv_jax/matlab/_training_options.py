"""Training options."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from grouped_conv_jax import _checks, optim
from grouped_conv_jax.matlab import _values
from grouped_conv_jax.matlab._properties import HasProperties, Property

_nonnegative = _values.nonnegative
_positive_integer = _values.integer(1)


def _validation_data(name: str, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, tuple | list) and len(value) == 2:
        return value[0], np.asarray(value[1])
    raise ValueError(f"{name} must be (images, labels), got {type(value).__name__}")


class TrainingOptions(HasProperties):
    """Options of `trainNetwork`; `trainingOptions` constructs them.

    Names, defaults and meanings follow MATLAB; ``Seed`` is an addition.
    """

    InitialLearnRate = Property("Learning rate of the first epoch.", _nonnegative)
    LearnRateSchedule = Property(
        "'none', or 'piecewise' for periodic drops.", _values.word("none", "piecewise"), "none"
    )
    LearnRateDropFactor = Property("Factor on the learning rate at a drop.", _values.unit, 0.1)
    LearnRateDropPeriod = Property("Epochs between drops.", _positive_integer, 10)
    L2Regularization = Property("L2 regularization for an L2 factor of 1.", _nonnegative, 1e-4)
    GradientThresholdMethod = Property(
        "'l2norm', 'global-l2norm' or 'absolute-value'.",
        _values.word("l2norm", "global-l2norm", "absolute-value"),
        "l2norm",
    )
    GradientThreshold = Property("Threshold of gradient clipping.", _values.threshold, math.inf)
    MaxEpochs = Property("Number of epochs.", _positive_integer, 30)
    MiniBatchSize = Property("Images per iteration.", _positive_integer, 128)
    Verbose = Property("Whether to print a progress table.", _values.logical, 1)
    VerboseFrequency = Property("Iterations between printed lines.", _positive_integer, 50)
    ValidationData = Property("(images, labels), or None.", _validation_data, None)
    ValidationFrequency = Property("Iterations between validations.", _positive_integer, 50)
    Shuffle = Property(
        "'once', 'every-epoch' or 'never'.", _values.word("once", "every-epoch", "never"), "once"
    )
    ResetInputNormalization = Property(
        "Whether to recompute image statistics that are already set.", _values.logical, 1
    )
    BatchNormalizationStatistics = Property(
        "'population' recomputes them after training, 'moving' keeps the running ones.",
        _values.word("population", "moving"),
        "population",
    )
    Seed = Property("Seed of initializers, shuffling and dropouts.", _values.integer(0), 0)

    _solver: ClassVar[tuple[str, ...]] = ()
    """The properties that are specific to the solver."""

    @property
    def _sections(self) -> Mapping[str, tuple[str, ...]]:  # type: ignore[override]
        return {"": (*self._solver, *TrainingOptions._table)}

    def make_solver(
        self, iterations_per_epoch: int, factors: optim.Factors
    ) -> optax.GradientTransformation:
        """Returns the solver from `grouped_conv_jax.optim` with these options."""
        raise NotImplementedError

    def learn_rate(self, iterations_per_epoch: int) -> optax.Schedule:
        """Returns the learning-rate schedule, a function of the number of completed iterations."""
        if self.LearnRateSchedule == "none":
            return optax.constant_schedule(self.InitialLearnRate)
        period = self.LearnRateDropPeriod * iterations_per_epoch

        def rate(count: jax.typing.ArrayLike) -> jax.Array:
            drops = jnp.asarray(count // period, jnp.float32)
            return self.InitialLearnRate * self.LearnRateDropFactor**drops

        return rate

    def _common(self, factors: optim.Factors) -> dict[str, Any]:
        return {
            "l2_regularization": self.L2Regularization,
            "gradient_threshold": self.GradientThreshold,
            "gradient_threshold_method": self.GradientThresholdMethod,
            "factors": factors,
        }


class TrainingOptionsSGDM(TrainingOptions):
    """Options of stochastic gradient descent with momentum."""

    Momentum = Property("Weight of the previous update.", _values.unit, 0.9)
    InitialLearnRate = Property("Learning rate of the first epoch.", _nonnegative, 0.01)

    _solver = ("Momentum",)

    def make_solver(
        self, iterations_per_epoch: int, factors: optim.Factors
    ) -> optax.GradientTransformation:
        """Returns `grouped_conv_jax.optim.sgdm` with these options."""
        rate = self.learn_rate(iterations_per_epoch)
        return optim.sgdm(rate, self.Momentum, **self._common(factors))


class TrainingOptionsADAM(TrainingOptions):
    """Options of Adam."""

    GradientDecayFactor = Property("Decay of the gradient mean.", _values.fraction, 0.9)
    SquaredGradientDecayFactor = Property(
        "Decay of the mean of squared gradients.", _values.fraction, 0.999
    )
    Epsilon = Property("Constant added to the denominator.", _values.positive, 1e-8)
    InitialLearnRate = Property("Learning rate of the first epoch.", _nonnegative, 0.001)

    _solver = ("GradientDecayFactor", "SquaredGradientDecayFactor", "Epsilon")

    def make_solver(
        self, iterations_per_epoch: int, factors: optim.Factors
    ) -> optax.GradientTransformation:
        """Returns `grouped_conv_jax.optim.adam` with these options."""
        return optim.adam(
            self.learn_rate(iterations_per_epoch),
            self.GradientDecayFactor,
            self.SquaredGradientDecayFactor,
            self.Epsilon,
            **self._common(factors),
        )


class TrainingOptionsRMSProp(TrainingOptions):
    """Options of RMSProp."""

    SquaredGradientDecayFactor = Property(
        "Decay of the mean of squared gradients.", _values.fraction, 0.9
    )
    Epsilon = Property("Constant added to the denominator.", _values.positive, 1e-8)
    InitialLearnRate = Property("Learning rate of the first epoch.", _nonnegative, 0.001)

    _solver = ("SquaredGradientDecayFactor", "Epsilon")

    def make_solver(
        self, iterations_per_epoch: int, factors: optim.Factors
    ) -> optax.GradientTransformation:
        """Returns `grouped_conv_jax.optim.rmsprop` with these options."""
        return optim.rmsprop(
            self.learn_rate(iterations_per_epoch),
            self.SquaredGradientDecayFactor,
            self.Epsilon,
            **self._common(factors),
        )


_SOLVERS = {
    "sgdm": TrainingOptionsSGDM,
    "adam": TrainingOptionsADAM,
    "rmsprop": TrainingOptionsRMSProp,
}


def trainingOptions(solverName: str, *pairs: Any, **properties: Any) -> TrainingOptions:  # noqa: N802, N803
    """Constructs the options of `trainNetwork`.

    Args:
        solverName: ``'sgdm'``, ``'adam'`` or ``'rmsprop'``.
        *pairs: options as ``'Name', value`` pairs.
        **properties: options as keyword arguments: those of `TrainingOptions`, ``Momentum`` for
            ``'sgdm'``, ``SquaredGradientDecayFactor`` and ``Epsilon`` for ``'adam'`` and
            ``'rmsprop'``, and ``GradientDecayFactor`` for ``'adam'``. The default of
            ``InitialLearnRate`` is 0.01 for ``'sgdm'`` and 0.001 for the others. With
            ``LearnRateSchedule='piecewise'``, the rate is multiplied by ``LearnRateDropFactor``
            every ``LearnRateDropPeriod`` epochs. ``Seed`` determines the initial weights, the
            shuffling and the dropout.

    Raises:
        TypeError: a name is unknown or repeated, or a value has the wrong type.
        ValueError: a value is invalid.

    Example:
        >>> from grouped_conv_jax.matlab import trainingOptions
        >>> print(trainingOptions("sgdm", MaxEpochs=20))
          TrainingOptionsSGDM with properties:
        <BLANKLINE>
                                Momentum: 0.9000
                        InitialLearnRate: 0.0100
                       LearnRateSchedule: 'none'
                     LearnRateDropFactor: 0.1000
                     LearnRateDropPeriod: 10
                        L2Regularization: 1.0000e-04
                 GradientThresholdMethod: 'l2norm'
                       GradientThreshold: Inf
                               MaxEpochs: 20
                           MiniBatchSize: 128
                                 Verbose: 1
                        VerboseFrequency: 50
                          ValidationData: []
                     ValidationFrequency: 50
                                 Shuffle: 'once'
                 ResetInputNormalization: 1
            BatchNormalizationStatistics: 'population'
                                    Seed: 0

        >>> options = trainingOptions("sgdm", LearnRateSchedule="piecewise", LearnRateDropPeriod=2)
        >>> rate = options.learn_rate(iterations_per_epoch=100)
        >>> [f"{rate(iteration):.4f}" for iteration in (0, 199, 200, 400)]
        ['0.0100', '0.0100', '0.0010', '0.0001']
    """
    name = _checks.word("solverName", solverName, tuple(_SOLVERS))
    return _SOLVERS[name](*pairs, **properties)
