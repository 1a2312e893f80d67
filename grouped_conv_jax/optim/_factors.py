"""Learning-rate and L2 factors: a number for each learnable, and the masks that carry them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import optax
from flax import nnx

from grouped_conv_jax.optim import _arguments

# What holds one learnable: boxes with metadata, and the place that optax.masked leaves behind.
# A factor belongs to the whole of it, whatever lies inside.
_LEARNABLES = (nn.meta.AxisMetadata, nnx.Variable, optax.MaskedNode)


class Factors(NamedTuple):
    """Learning-rate and L2 factors of every learnable.

    Both fields are pytrees of Python floats with the structure of the parameters; where a
    parameter is boxed with metadata, the factor stands in the place of the box.

    Attributes:
        learn_rate: what multiplies the learning rate of each learnable; 0 freezes it.
        l2: what multiplies the L2 regularization of each learnable.
    """

    learn_rate: Any
    l2: Any


def set_factor(
    factors: Factors, path: str, *, learn_rate: float | None = None, l2: float | None = None
) -> Factors:
    """Changes the factors of one learnable.

    Args:
        factors: the factors to start from; they are left as they are.
        path: the names from the root to the learnable, joined by ``/``.
        learn_rate: the new learning-rate factor; ``None`` keeps the old one.
        l2: the new L2 factor; ``None`` keeps the old one.

    Returns:
        New factors.

    Raises:
        KeyError: there is no learnable at ``path``; the message names those that there are.
        TypeError: a factor is not a real number.
        ValueError: a factor is negative or not finite, or none is given.

    Example:
        >>> from grouped_conv_jax.optim import Factors, set_factor
        >>> factors = Factors(learn_rate={"conv": {"weights": 1.0}}, l2={"conv": {"weights": 1.0}})
        >>> set_factor(factors, "conv/weights", learn_rate=0.1)
        Factors(learn_rate={'conv': {'weights': 0.1}}, l2={'conv': {'weights': 1.0}})
    """
    _check_kind(factors)
    if learn_rate is None and l2 is None:
        raise ValueError("learn_rate or l2 must be given, got None for both")
    return Factors(
        learn_rate=_replace(factors.learn_rate, path, "learn_rate", learn_rate),
        l2=_replace(factors.l2, path, "l2", l2),
    )


def _replace(tree: Any, path: str, name: str, value: float | None) -> Any:
    paths = by_path(tree)
    if path not in paths:
        raise KeyError(f"no learnable at {path!r}; there are {', '.join(map(repr, paths))}")
    if value is None:
        return tree
    new = _arguments.nonnegative(name, value)
    return _map_by_path(lambda here, old: new if here == path else old, tree)


def collect_factors(params: Any, layers: Mapping[str, Any]) -> Factors:
    """Builds the factors of a model from the attributes of its grouped convolutions.

    Args:
        params: the parameters, or their shapes; only the structure counts.
        layers: every grouped convolution by its path.

    Returns:
        The layers' own factors. The learnables of other layers have learning-rate factor 1 and
        L2 factor 1, or 0 where the leaf is named ``bias``.
    """
    given: dict[str, tuple[float, float]] = {}
    for path, layer in layers.items():
        parent = f"{path}/" if path else ""
        given |= {f"{parent}{name}": (rate, l2) for name, rate, l2 in _own_factors(layer)}

    def factor(which: int, path: str) -> float:
        default = 1.0, 0.0 if path.rpartition("/")[-1] == "bias" else 1.0
        return float(given.get(path, default)[which])

    return Factors(
        learn_rate=_map_by_path(lambda path, _: factor(0, path), params),
        l2=_map_by_path(lambda path, _: factor(1, path), params),
    )


def has_factors(module: Any) -> bool:
    """Whether a module that is no grouped convolution tells the factors of its learnables.

    It does so in an attribute ``factors_of_learnables``: the name, the learning-rate factor and the
    L2 factor of each.
    """
    return hasattr(module, "factors_of_learnables")


def _own_factors(layer: Any) -> Iterable[tuple[str, float, float]]:
    if has_factors(layer):
        return layer.factors_of_learnables
    return (
        ("weights", layer.weight_learn_rate_factor, layer.weight_l2_factor),
        ("bias", layer.bias_learn_rate_factor, layer.bias_l2_factor),
    )


def for_each_factor(
    factors: Factors | None,
    field: Literal["learn_rate", "l2"],
    transformation: Callable[[float], optax.GradientTransformation],
) -> optax.GradientTransformation:
    """Applies to each learnable the transformation for its factor.

    There is one mask for each distinct factor. Which learnables it selects is settled here, by
    their paths; at each use it is only laid out in the containers of the tree at hand (``dict``,
    ``FrozenDict``, NNX state, with or without metadata), so it cannot select differently in
    ``init`` and in ``update``.

    Args:
        factors: ``None`` for a factor of one everywhere.
        field: which of the factors.
        transformation: from a factor to what it does.

    Raises:
        TypeError: ``factors`` is something else, or a factor is not a real number.
        ValueError: a factor is negative or not finite. The transformation raises it in ``init``
            and ``update`` where the factors do not have the structure of the parameters.
    """
    if factors is None:
        return transformation(1.0)
    factor_at = factors_by_path(factors, field)

    def mask(factor: float) -> Callable[[Any], Any]:
        selected = {path: at == factor for path, at in factor_at.items()}

        def lay_out(tree: Any) -> Any:
            check_structure(f"factors.{field}", selected, by_path(tree))
            return _map_by_path(lambda path, _: selected[path], tree)

        return lay_out

    # A model without learnables still has its structure checked.
    distinct = sorted(set(factor_at.values())) or [1.0]
    return optax.chain(*(optax.masked(transformation(f), mask(f)) for f in distinct))


def factors_by_path(factors: Factors, field: Literal["learn_rate", "l2"]) -> dict[str, float]:
    """Lists the factors in one field, checked, by the paths of their learnables."""
    _check_kind(factors)
    return {
        path: _arguments.nonnegative(f"factors.{field} at {path!r}", factor)
        for path, factor in by_path(getattr(factors, field)).items()
    }


def _check_kind(factors: Any) -> None:
    if not isinstance(factors, Factors):
        raise TypeError(
            "factors must be the Factors that learnable_factors returns, "
            f"got {type(factors).__name__}"
        )


def check_structure(name: str, factors: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` unless the factors called ``name`` have the paths of the parameters."""
    differences = [
        f"{what} {', '.join(map(repr, sorted(paths)))}"
        for what, paths in (
            ("missing", params.keys() - factors.keys()),
            ("extra", factors.keys() - params.keys()),
        )
        if paths
    ]
    if differences:
        raise ValueError(
            f"{name} must have the structure of the parameters, got {'; '.join(differences)}"
        )


def by_path(tree: Any) -> dict[str, Any]:
    """Lists what the learnables of a tree hold, by their paths."""
    leaves = jax.tree.leaves_with_path(tree, is_leaf=_is_learnable)
    return {_join(path): leaf for path, leaf in leaves}


def _map_by_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    return jax.tree.map_with_path(
        lambda path, leaf: function(_join(path), leaf), tree, is_leaf=_is_learnable
    )


def _join(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_learnable(node: Any) -> bool:
    return isinstance(node, _LEARNABLES)
