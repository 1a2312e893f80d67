"""Learning-rate and L2 factors of an NNX model."""

from typing import Any

from flax import nnx

from grouped_conv_jax.optim._factors import Factors
from grouped_conv_jax.optim._layer_factors import collect_factors, nnx_factors


def learnable_factors(model: Any, wrt: nnx.filterlib.Filter = nnx.Param) -> Factors:
    """Reads the factors of the learnables of a model from its grouped convolutions.

    Args:
        model: an NNX module, or a container of modules.
        wrt: the filter that selects the learnables, as in ``nnx.Optimizer``.

    Returns:
        The factors, in states with the structure of ``nnx.state(model, wrt)`` and floats in place
        of parameters. The learnables of other layers have learning-rate factor 1 and L2 factor 1,
        or L2 factor 0 if the leaf is named ``bias``. A shared layer appears once, where NNX first
        encounters it. In ``nnx.WeightNorm``, the scale of a learnable has the learnable's factors.

    Raises:
        TypeError: ``model`` is not a module; a module's state, for example, has no factors.
        ValueError: layers that share a learnable have different factors for it, or the model holds
            a Linen model in ``nnx.bridge.ToNNX`` whose layers are unknown without its inputs.

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
    return collect_factors(nnx.state(model, wrt), nnx_factors(model))


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
            "nnx.merge restores from the results of nnx.split"
        )
