"""Learning-rate and L2 factors of a Linen model."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from grouped_conv_jax.linen._grouped_conv import GroupedConv2D
from grouped_conv_jax.optim._factors import Factors, collect_factors, has_factors

# A module under nn.jit that was traced before would come from JAX's cache, and no call be seen. A
# new value here makes JAX trace it again.
_trace_anew = jax.make_user_context(None)


def learnable_factors(model: nn.Module, rngs: Any, *example_inputs: Any, **kwargs: Any) -> Factors:
    """Reads the factors of all learnables of a model from its grouped convolutions.

    The model is initialized in the abstract: nothing is computed.

    Args:
        model: any Linen module.
        rngs: as for ``model.init``.
        *example_inputs: as for ``model.init``; ``jax.ShapeDtypeStruct`` will do for an array.
        **kwargs: as for ``model.init``.

    Returns:
        The factors, in pytrees of the structure of ``model.init(...)["params"]``. The learnables of
        other layers have learning-rate factor 1 and L2 factor 1, or 0 where the leaf is named
        ``bias``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from grouped_conv_jax.linen import GroupedConv2D, learnable_factors
        >>> model = GroupedConv2D(3, 1, "channel-wise", weight_learn_rate_factor=0.5)
        >>> factors = learnable_factors(model, jax.random.key(0), jnp.ones((1, 8, 8, 4)))
        >>> factors.learn_rate
        {'bias': 1.0, 'weights': 0.5}
        >>> factors.l2
        {'bias': 0.0, 'weights': 1.0}
    """
    layers: dict[str, nn.Module] = {}

    def record(
        method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: Any
    ) -> Any:
        if isinstance(context.module, GroupedConv2D) or has_factors(context.module):
            layers["/".join(context.module.path)] = context.module
        return method(*args, **kwargs)

    with _trace_anew(object()), nn.intercept_methods(record):
        variables = _shapes(model.init, rngs, *example_inputs, **kwargs)
    return collect_factors(variables.get("params", {}), layers)


def _shapes(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Evaluates the shapes that a function returns; what is no array it receives as it is."""
    leaves, structure = jax.tree.flatten((args, kwargs))
    arrays = {i: leaf for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype")}

    def call(arrays: dict[int, Any]) -> Any:
        filled = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        args, kwargs = jax.tree.unflatten(structure, filled)
        return function(*args, **kwargs)

    return jax.eval_shape(call, arrays)
