"""Collects the factors of a model's layers by the paths of their learnables.

Flax wraps modules in its own modules: in bridges between Linen and NNX, and in weight
normalization. The factors of a layer also apply within these wrappers, or raise an error.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from flax import nnx

from grouped_conv_jax.optim._factors import Factors, by_path, map_by_path

Pair: TypeAlias = tuple[float, float]
"""Learning-rate factor and L2 factor."""


def collect_factors(params: Any, given: Mapping[str, Pair]) -> Factors:
    """Builds the factors of a model.

    Args:
        params: the parameters or their shapes; only the structure matters.
        given: the factors of the layers' learnables, by path.

    Returns:
        The given factors. Other learnables have learning-rate factor 1 and L2 factor 1, or L2
        factor 0 if the leaf is named ``bias``.
    """

    def factor(index: int, path: str) -> float:
        return float(given.get(path, _default(path))[index])

    return Factors(
        learn_rate=map_by_path(lambda path, _: factor(0, path), params),
        l2=map_by_path(lambda path, _: factor(1, path), params),
    )


def check_arrival(params: Any, given: Mapping[str, Pair]) -> None:
    """Raises ``ValueError`` if ``params`` lacks a learnable with given factors."""
    paths = by_path(params)
    lost = [path for path, pair in given.items() if path not in paths and pair != _default(path)]
    if lost:
        raise ValueError(
            f"the factors of {', '.join(map(repr, lost))} must have a parameter at that path, got "
            "none: a module around the layer stores its parameters elsewhere; leave the layer's "
            "factors at their defaults, and set them by optim.set_factor"
        )


def add(given: dict[str, Pair], pairs: Mapping[str, Pair]) -> None:
    """Adds pairs to ``given``; raises ``ValueError`` if a path already has different factors."""
    for path, pair in pairs.items():
        if given.setdefault(path, pair) != pair:
            raise ValueError(
                f"layers that share the learnable {path!r} must have the same factors for it, got "
                f"(learning-rate factor, L2 factor) {given[path]} and {pair}"
            )


def is_layer(module: Any) -> bool:
    """Whether a Linen or NNX module declares the factors of its learnables.

    Its attribute ``factors_of_learnables`` then lists the name, the learning-rate factor and the L2
    factor of each.
    """
    # hasattr would invoke the attribute lookup of Flax's wrappers, which calls modules.
    return inspect.getattr_static(module, "factors_of_learnables", None) is not None


def layer_factors(layer: Any, path: str = "") -> dict[str, Pair]:
    """Returns the factors of the learnables of a layer at ``path``."""
    return below(path, {name: (rate, l2) for name, rate, l2 in layer.factors_of_learnables})


def below(path: str, pairs: Mapping[str, Pair]) -> dict[str, Pair]:
    """Prefixes the paths of factors with ``path``."""
    return {f"{path}/{name}" if path else name: pair for name, pair in pairs.items()}


def nnx_factors(model: Any) -> dict[str, Pair]:
    """Returns the factors of all layers of an NNX model that declare them.

    Learnables are identified by object identity, since layers and learnables may be shared.
    """
    paths = {
        id(node): join(path)
        for path, node in nnx.iter_graph(model)
        if isinstance(node, nnx.Variable)
    }
    given: dict[str, Pair] = {}
    for path, module in nnx.iter_modules(model):
        if is_layer(module):
            add(given, {paths[id(v)]: pair for v, pair in _learnables(module, join(path))})
        elif isinstance(module, nnx.bridge.ToNNX):
            add(given, below(join(path), _bridged_linen_factors(module, join(path))))
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.WeightNorm) and module.scales:
            normalized = dict(nnx.to_flat_state(nnx.state(module.layer_instance, nnx.Param)))
            for name, scale in module.scales.items():
                pair = given.get(paths[id(normalized[name])])
                # In Flax 0.12.8 the scales are plain arrays, which no optimizer trains.
                if pair is not None and isinstance(scale, nnx.Variable):
                    add(given, {paths[id(scale)]: pair})
    return given


def to_linen_factors(module: Any) -> dict[str, Pair]:
    """Returns the factors of the NNX module within an ``nnx.bridge.ToLinen``, without computing."""

    def make() -> nnx.Module:
        rngs = {} if module.skip_rng else {"rngs": nnx.Rngs(0)}
        return module.nnx_class(*module.args, **module.kwargs, **rngs)

    return nnx_factors(nnx.eval_shape(make))


def _learnables(layer: Any, path: str) -> Iterator[tuple[nnx.Variable[Any], Pair]]:
    for name, pair in layer_factors(layer).items():
        learnable = getattr(layer, name)
        if isinstance(learnable, nnx.Variable):
            yield learnable, pair
        elif pair != _default(name):
            raise ValueError(
                f"{name} of the layer at {path!r} must be an nnx.Variable for its factors "
                f"{pair} to be read, got {type(learnable).__name__}"
            )


def _bridged_linen_factors(bridge: nnx.bridge.ToNNX, path: str) -> dict[str, Pair]:
    module = bridge.to_nnx__module
    if is_layer(module):
        return layer_factors(module)
    if isinstance(module, nnx.bridge.ToLinen):
        return to_linen_factors(module)
    # The layers of a Linen module are unknown before it is called, but the name suggests ours.
    names = [join(p) for p, _ in nnx.to_flat_state(nnx.state(bridge, nnx.Param))]
    weights = [name for name in names if name.rpartition("/")[2] == "weights"]
    if weights:
        raise ValueError(
            "the factors of a Linen model in nnx.bridge.ToNNX cannot be read without its inputs, "
            f"got {type(module).__name__} at {path!r} with {', '.join(map(repr, weights))}; "
            "read them by grouped_conv_jax.linen.learnable_factors from the Linen model itself, "
            f"whose learnables have the same paths below {path!r}"
        )
    return {}


def join(path: tuple[Any, ...]) -> str:
    """Joins the names of a path as :func:`by_path` does."""
    return "/".join(map(str, path))


def _default(path: str) -> Pair:
    return 1.0, 0.0 if path.rpartition("/")[2] == "bias" else 1.0
