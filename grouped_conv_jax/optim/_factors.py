"""Learning-rate and L2 factors of each learnable, and the masks that apply them."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import optax
from flax import nnx
from jax.typing import ArrayLike

from grouped_conv_jax.optim import _arguments

# Each of these nodes is one learnable with one factor, whatever it contains: boxes with metadata,
# and the placeholder that optax.masked leaves behind.
_LEARNABLES = (nn.meta.AxisMetadata, nnx.Variable, optax.MaskedNode)


class Factors(NamedTuple):
    """Learning-rate and L2 factors of every learnable.

    Both fields are pytrees of Python floats with the structure of the parameters. If a parameter is
    boxed with metadata, its factor replaces the box.

    Attributes:
        learn_rate: factors of the learning rate; 0 freezes a learnable.
        l2: factors of the L2 regularization.
    """

    learn_rate: Any
    l2: Any


def set_factor(
    factors: Factors,
    path: str,
    *,
    learn_rate: ArrayLike | None = None,
    l2: ArrayLike | None = None,
) -> Factors:
    """Changes the factors of the learnables that a path matches.

    Args:
        factors: the factors to start from; they are not modified.
        path: the names from the root to a learnable or to a layer, joined by ``/``. The path of a
            layer matches all learnables below it. ``*`` matches any characters within one name, and
            ``**`` any number of names: ``"body/**"`` matches everything below ``body``, and
            ``"**/bias"`` everything named ``bias``.
        learn_rate: the new learning-rate factor; ``None`` keeps the old one.
        l2: the new L2 factor; ``None`` keeps the old one.

    Returns:
        New factors.

    Raises:
        KeyError: ``path`` matches no learnable; the message lists the existing paths.
        TypeError: a factor is not a real number.
        ValueError: a factor is negative or not finite, or none is given.

    Example:
        >>> from grouped_conv_jax.optim import Factors, set_factor
        >>> factors = Factors(learn_rate={"conv": {"weights": 1.0}}, l2={"conv": {"weights": 1.0}})
        >>> set_factor(factors, "conv/weights", learn_rate=0.1)
        Factors(learn_rate={'conv': {'weights': 0.1}}, l2={'conv': {'weights': 1.0}})
        >>> set_factor(factors, "conv/**", learn_rate=0.0).learn_rate
        {'conv': {'weights': 0.0}}
    """
    _check_kind(factors)
    if learn_rate is None and l2 is None:
        raise ValueError("learn_rate or l2 must be given, got None for both")
    return Factors(
        learn_rate=_replace(factors.learn_rate, path, "learn_rate", learn_rate),
        l2=_replace(factors.l2, path, "l2", l2),
    )


def _replace(tree: Any, path: str, name: str, value: ArrayLike | None) -> Any:
    paths = by_path(tree)
    matched = set(filter(_matcher(path), paths))
    if not matched:
        raise KeyError(f"no learnable at {path!r}; there are {', '.join(map(repr, paths))}")
    if value is None:
        return tree
    new = _arguments.factor(name, value)
    return map_by_path(lambda path, old: new if path in matched else old, tree)


def _matcher(pattern: str) -> Callable[[str], Any]:
    """Returns a predicate: whether a path matches ``pattern`` or lies below a match."""
    if not isinstance(pattern, str):
        raise TypeError(f"path must be a string, got {pattern!r}")
    parts = {"**/": "(?:.+/)?", "**": ".+", "*": "[^/]*"}
    pieces = re.split(r"((?<![^/])\*\*/|(?<![^/])\*\*\Z|\*)", pattern)
    expression = "".join(parts.get(piece) or re.escape(piece) for piece in pieces)
    return re.compile(f"{expression}(?:/.*)?", re.DOTALL).fullmatch


def for_each_factor(
    factors: Factors | None,
    field: Literal["learn_rate", "l2"],
    transformation: Callable[[float], optax.GradientTransformation],
) -> optax.GradientTransformationExtraArgs:
    """Applies to each learnable the transformation for its factor.

    Each distinct factor has one mask, which selects learnables by their paths. The mask is rebuilt
    for each tree, so the containers may differ between ``init`` and ``update`` (``dict``,
    ``FrozenDict``, NNX state, with or without metadata) while the selection stays the same.

    Args:
        factors: the factors, or ``None`` for 1 everywhere.
        field: the field of the factors to use.
        transformation: returns the transformation for a factor.

    Raises:
        TypeError: ``factors`` are not ``Factors``, or a factor is not a real number.
        ValueError: a factor is negative or not finite. In ``init`` and ``update``, the
            transformation raises it if the factors do not have the structure of the parameters.
    """
    if factors is None:
        return optax.with_extra_args_support(transformation(1.0))
    factor_at = factors_by_path(factors, field)

    def mask(factor: float) -> Callable[[Any], Any]:
        selected = {path: other == factor for path, other in factor_at.items()}

        def build(tree: Any) -> Any:
            check_structure(f"factors.{field}", selected, by_path(tree))
            # A masked layer is a leaf without a factor of its own.
            return map_by_path(lambda path, _: selected.get(path, False), tree)

        return build

    # With a mask even for no learnables, the structure is always checked.
    distinct = sorted(set(factor_at.values())) or [1.0]
    return optax.chain(*(optax.masked(transformation(f), mask(f)) for f in distinct))


def factors_by_path(factors: Factors, field: Literal["learn_rate", "l2"]) -> dict[str, float]:
    """Returns the checked factors of one field by the paths of their learnables."""
    _check_kind(factors)
    return {
        path: _arguments.factor(f"factors.{field} at {path!r}", factor)
        for path, factor in by_path(getattr(factors, field)).items()
    }


def _check_kind(factors: Any) -> None:
    if not isinstance(factors, Factors):
        raise TypeError(
            "factors must be the Factors that learnable_factors returns, "
            f"got {type(factors).__name__}"
        )


def check_structure(name: str, factors: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` unless the factors have the paths of the parameters.

    If ``optax.masked`` has replaced a layer by one node, the factors of the layer's learnables are
    allowed.
    """
    missing, extra = params.keys() - factors.keys(), factors.keys() - params.keys()
    masked = {path for path in missing if isinstance(params[path], optax.MaskedNode)}
    below = {layer: {path for path in extra if _is_below(path, layer)} for layer in masked}
    missing -= {layer for layer, paths in below.items() if paths}
    extra = extra.difference(*below.values())
    differences = [
        f"{kind} {', '.join(map(repr, sorted(paths)))}"
        for kind, paths in (("missing", missing), ("extra", extra))
        if paths
    ]
    if differences:
        raise ValueError(
            f"{name} must have the structure of the parameters, got {'; '.join(differences)}"
        )


def _is_below(path: str, layer: str) -> bool:
    return not layer or path.startswith(f"{layer}/")


def by_path(tree: Any) -> dict[str, Any]:
    """Returns the learnables of a tree by their paths."""
    leaves = jax.tree.leaves_with_path(tree, is_leaf=_is_learnable)
    return {_join(path): leaf for path, leaf in leaves}


def map_by_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Replaces each learnable of a tree by ``function(path, learnable)``."""
    return jax.tree.map_with_path(
        lambda path, leaf: function(_join(path), leaf), tree, is_leaf=_is_learnable
    )


def _join(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_learnable(node: Any) -> bool:
    return isinstance(node, _LEARNABLES)
