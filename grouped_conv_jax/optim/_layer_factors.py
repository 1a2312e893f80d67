"""The factors that layers hold, by the paths of their learnables.

Flax wraps modules in modules of its own: bridges from Linen to NNX and back, and weight
normalization. What a layer says of its learnables holds for them there too, or is refused.
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
        params: the parameters, or their shapes; only the structure counts.
        given: the factors that layers hold.

    Returns:
        The given factors. Other learnables have learning-rate factor 1 and L2 factor 1, or 0 where
        the leaf is named ``bias``.
    """

    def factor(which: int, path: str) -> float:
        return float(given.get(path, _default(path))[which])

    return Factors(
        learn_rate=map_by_path(lambda path, _: factor(0, path), params),
        l2=map_by_path(lambda path, _: factor(1, path), params),
    )


def check_arrival(params: Any, given: Mapping[str, Pair]) -> None:
    """Raises ``ValueError`` where a learnable that factors are given for is not in ``params``."""
    paths = by_path(params)
    lost = [path for path, pair in given.items() if path not in paths and pair != _default(path)]
    if lost:
        raise ValueError(
            f"the factors of {', '.join(map(repr, lost))} must have a parameter at that path, got "
            "none: a module around the layer keeps its parameters elsewhere; leave the layer's "
            "factors at their defaults, and set them by optim.set_factor"
        )


def add(given: dict[str, Pair], pairs: Mapping[str, Pair]) -> None:
    """Adds to ``given``, and raises ``ValueError`` where a path has other factors already."""
    for path, pair in pairs.items():
        if given.setdefault(path, pair) != pair:
            raise ValueError(
                f"layers that share the learnable {path!r} must have the same factors for it, got "
                f"(learning-rate factor, L2 factor) {given[path]} and {pair}"
            )


def is_layer(module: Any) -> bool:
    """Whether a module, Linen or NNX, tells the factors of its learnables.

    It does so by an attribute ``factors_of_learnables``: the name, the learning-rate factor and the
    L2 factor of each.
    """
    # hasattr would call what Flax's wrappers look attributes up with, which calls modules.
    return inspect.getattr_static(module, "factors_of_learnables", None) is not None


def of_layer(layer: Any, path: str = "") -> dict[str, Pair]:
    """The factors of the learnables of a layer at ``path``."""
    return below(path, {name: (rate, l2) for name, rate, l2 in layer.factors_of_learnables})


def below(path: str, pairs: Mapping[str, Pair]) -> dict[str, Pair]:
    """The same factors with ``path`` in front."""
    return {f"{path}/{name}" if path else name: pair for name, pair in pairs.items()}


def of_nnx(model: Any) -> dict[str, Pair]:
    """The factors of all layers of an NNX model that tell theirs.

    Learnables are told by identity, since a layer or a learnable may be shared.
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
            add(given, below(join(path), _of_bridged_linen(module, join(path))))
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.WeightNorm) and module.scales:
            normalized = dict(nnx.to_flat_state(nnx.state(module.layer_instance, nnx.Param)))
            for name, scale in module.scales.items():
                pair = given.get(paths[id(normalized[name])])
                # Flax 0.12.8 keeps plain arrays there, which nothing trains.
                if pair is not None and isinstance(scale, nnx.Variable):
                    add(given, {paths[id(scale)]: pair})
    return given


def of_to_linen(module: Any) -> dict[str, Pair]:
    """The factors of the NNX module that ``nnx.bridge.ToLinen`` makes; nothing is computed."""

    def make() -> nnx.Module:
        rngs = {} if module.skip_rng else {"rngs": nnx.Rngs(0)}
        return module.nnx_class(*module.args, **module.kwargs, **rngs)

    return of_nnx(nnx.eval_shape(make))


def _learnables(layer: Any, path: str) -> Iterator[tuple[nnx.Variable[Any], Pair]]:
    for name, pair in of_layer(layer).items():
        learnable = getattr(layer, name)
        if isinstance(learnable, nnx.Variable):
            yield learnable, pair
        elif pair != _default(name):
            raise ValueError(
                f"{name} of the layer at {path!r} must be an nnx.Variable for its factors "
                f"{pair} to be read, got {type(learnable).__name__}"
            )


def _of_bridged_linen(bridge: nnx.bridge.ToNNX, path: str) -> dict[str, Pair]:
    module = bridge.to_nnx__module
    if is_layer(module):
        return of_layer(module)
    if isinstance(module, nnx.bridge.ToLinen):
        return of_to_linen(module)
    # Which layers a Linen module has is known when it is called. Ours have weights of this name.
    names = [join(p) for p, _ in nnx.to_flat_state(nnx.state(bridge, nnx.Param))]
    ours = [name for name in names if name.rpartition("/")[2] == "weights"]
    if ours:
        raise ValueError(
            "the factors of a Linen model in nnx.bridge.ToNNX cannot be read without its inputs, "
            f"got {type(module).__name__} at {path!r} with {', '.join(map(repr, ours))}; "
            "read them by grouped_conv_jax.linen.learnable_factors from the Linen model itself, "
            f"whose learnables have the same paths below {path!r}"
        )
    return {}


def join(path: tuple[Any, ...]) -> str:
    """A path as :func:`by_path` writes it."""
    return "/".join(map(str, path))


def _default(path: str) -> Pair:
    return 1.0, 0.0 if path.rpartition("/")[2] == "bias" else 1.0
