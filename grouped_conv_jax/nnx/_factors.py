"""Learning-rate and L2 factors of an NNX model."""

from typing import Any

from flax import nnx

from grouped_conv_jax.optim._factors import Factors
from grouped_conv_jax.optim._layer_factors import collect_factors, of_nnx


def learnable_factors(model: Any, wrt: nnx.filterlib.Filter = nnx.Param) -> Factors:
    """Reads the factors of the learnables of a model from its grouped convolutions.

    Args:
        model: an NNX module, or a container of modules.
        wrt: which variables are learnables; what ``nnx.Optimizer`` gets as ``wrt``.

    Returns:
        The factors, in states of the structure of ``nnx.state(model, wrt)`` with floats for
        parameters. The learnables of other layers have learning-rate factor 1 and L2 factor 1, or
        0 where the leaf is named ``bias``. A shared layer counts once, where NNX first meets it.
        In ``nnx.WeightNorm``, the scale of a learnable has the learnable's factors.

    Raises:
        TypeError: ``model`` is not a module but its state: there the factors are no more.
        ValueError: layers that share a learnable give it different factors, or the model holds a
            Linen model in ``nnx.bridge.ToNNX`` whose layers cannot be told without its inputs.

    Example:
        >>> from flax import nnx
        >>> from grouped_conv_jax.nnx import GroupedConv2D, learnable_factors
        >>> model = GroupedConv2D(
        ...     4, 3, 1, "channel-wise", weight_learn_rate_factor=0.5, rngs=nnx.Rngs(0)
        ... )
        >>> factors = learnable_factors(model)
        >>> nnx.to_pure_dict(factors.learn_rate)
        {'bias': 1.0, 'weights': 0.5}
        >>> nnx.to_pure_dict(factors.l2)
        {'bias': 0.0, 'weights': 1.0}
        >>> nnx.to_pure_dict(learnable_factors(model, nnx.PathContains("bias")).learn_rate)
        {'bias': 1.0}
    """
    _check_model(model)
    return collect_factors(nnx.state(model, wrt), of_nnx(model))


def _check_model(model: Any) -> None:
    modules = [path for path, node in nnx.iter_graph(model) if isinstance(node, nnx.Module)]
    states = [
        path
        for path, node in nnx.iter_graph(model)
        if isinstance(node, nnx.State | nnx.GraphState | nnx.GraphDef)
        and not any(path[: len(module)] == module for module in modules)
    ]
    if states or not modules:
        raise TypeError(
            "model must be an NNX module or a container of modules, got "
            f"{type(model).__name__}; a state has no factors: read them from the module, which "
            "nnx.merge makes of what nnx.split returned"
        )
