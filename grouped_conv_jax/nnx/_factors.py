"""Learning-rate and L2 factors of an NNX model."""

from typing import Any

from flax import nnx

from grouped_conv_jax.nnx._grouped_conv import GroupedConv2D
from grouped_conv_jax.optim._factors import Factors, collect_factors, has_factors


def learnable_factors(model: Any) -> Factors:
    """Reads the factors of all learnables of a model from its grouped convolutions.

    Args:
        model: an NNX module, or a container of modules.

    Returns:
        The factors, in states of the structure of ``nnx.state(model, nnx.Param)`` with floats for
        parameters. The learnables of other layers have learning-rate factor 1 and L2 factor 1, or
        0 where the leaf is named ``bias``. A shared layer counts once, where NNX first meets it.

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
    """
    layers = {
        "/".join(map(str, path)): module
        for path, module in nnx.iter_modules(model)
        if isinstance(module, GroupedConv2D) or has_factors(module)
    }
    return collect_factors(nnx.state(model, nnx.Param), layers)
