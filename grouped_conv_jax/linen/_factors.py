"""Learning-rate and L2 factors of a Linen model."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from grouped_conv_jax.optim._factors import Factors, by_path
from grouped_conv_jax.optim._layer_factors import (
    Pair,
    add,
    below,
    check_arrival,
    collect_factors,
    is_layer,
    join,
    layer_factors,
    to_linen_factors,
)

# Part of the key of JAX's caches. A new value makes JAX trace a module under nn.jit again, so that
# its calls are intercepted.
_trace_key = jax.make_user_context(None)


def learnable_factors(model: nn.Module, rngs: Any, *example_inputs: Any, **kwargs: Any) -> Factors:
    """Reads the factors of all learnables of a model from its grouped convolutions.

    The model is initialized abstractly: nothing is computed.

    Args:
        model: any Linen module.
        rngs: as in ``model.init``.
        *example_inputs: as in ``model.init``; each array may be a ``jax.ShapeDtypeStruct``.
        **kwargs: as in ``model.init``.

    Returns:
        The factors, in pytrees with the structure of ``model.init(...)["params"]``. The learnables
        of other layers have learning-rate factor 1 and L2 factor 1, or L2 factor 0 if the leaf is
        named ``bias``. In ``nn.WeightNorm``, the scale of a learnable has the learnable's factors.

    Raises:
        ValueError: a module around a layer stores the layer's parameters under another path, or
            layers that share a learnable have different factors for it.

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
    given: dict[str, Pair] = {}
    normalizations: list[tuple[str, str]] = []
    bridged = False

    def record(
        method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: Any
    ) -> Any:
        nonlocal bridged
        module = context.module
        # The paths of modules within a bridge start at the bridge, which records them itself.
        if bridged or not module.is_initializing():
            return method(*args, **kwargs)
        if is_layer(module):
            add(given, layer_factors(module, join(module.path)))
        bridged = isinstance(module, nnx.bridge.ToLinen)
        try:
            if bridged and context.method_name == "__call__":
                add(given, below(join(module.path), to_linen_factors(module)))
            result = method(*args, **kwargs)
        finally:
            bridged = False
        if isinstance(module, nn.WeightNorm) and context.method_name == "__call__":
            layer = module.layer_instance
            normalizations.append((join((*module.path, layer.name)), join(layer.path)))
        return result

    with _trace_key(object()), nn.intercept_methods(record):
        params = _shapes(model.init, rngs, *example_inputs, **kwargs).get("params", {})
    check_arrival(params, given)
    return collect_factors(params, given | _scale_factors(params, given, normalizations))


def _scale_factors(
    params: Any, given: Mapping[str, Pair], normalizations: Iterable[tuple[str, str]]
) -> dict[str, Pair]:
    """The factors of the scales in ``nn.WeightNorm``: those of the normalized learnables."""
    paths = by_path(params)
    pairs = {
        f"{scales}/{path.removeprefix(f'{layer}/')}/scale": pair
        for scales, layer in normalizations
        for path, pair in given.items()
        if path.startswith(f"{layer}/")
    }
    return {path: pair for path, pair in pairs.items() if path in paths}


def _shapes(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Evaluates the shapes of a function's results; only its array arguments become abstract."""
    leaves, structure = jax.tree.flatten((args, kwargs))
    arrays = {i: leaf for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype")}

    def call(arrays: dict[int, Any]) -> Any:
        filled = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        args, kwargs = jax.tree.unflatten(structure, filled)
        return function(*args, **kwargs)

    return jax.eval_shape(call, arrays)
