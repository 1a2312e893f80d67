"""Detects initializers of JAX that do not fit grouped weights.

``jax.nn.initializers.variance_scaling``, and initializers such as ``he_normal()`` that it builds,
by default treat the last two axes as inputs and outputs. In grouped weights these are filters and
groups. ``orthogonal`` and ``delta_orthogonal`` make one matrix of all weights, but each group needs
its own.
"""

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import jax


def _code(function: Any) -> types.CodeType | None:
    return getattr(function, "__code__", None)


# These functions return closures, each with one code object; the free variables of
# variance_scaling's closure have the names of the public arguments. Tested with JAX 0.10.0 and
# 0.12.0.1; tests/test_initializers_fans.py fails with a version that differs.
_VARIANCE_SCALING = _code(jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal"))
_OF_ONE_MATRIX = {
    _code(jax.nn.initializers.orthogonal()): "orthogonal",
    _code(jax.nn.initializers.delta_orthogonal()): "delta_orthogonal",
}


def check_fans(name: str, initializer: Callable[..., Any], spatial_axes: int) -> None:
    """Raises ``ValueError`` if an initializer computes fans on other axes than those of a group.

    Args:
        name: ``"weights_initializer"``, or ``"bias_initializer"``, which has no fans at all.
        initializer: any callable; only those from ``variance_scaling``, ``orthogonal`` and
            ``delta_orthogonal`` are checked.
        spatial_axes: the number of spatial axes, which precede the channels.
    """
    unwrapped = _unwrap(initializer)
    matrix = _OF_ONE_MATRIX.get(_code(unwrapped))
    if matrix is None and _code(unwrapped) is not _VARIANCE_SCALING:
        return
    if name == "bias_initializer":
        raise ValueError(
            f"{name} must not depend on fans, which a bias does not have, got an initializer of "
            f"jax.nn.initializers.{matrix or 'variance_scaling'}"
        )
    if matrix is not None:
        raise ValueError(
            f"{name} must initialize each group on its own, got an initializer of "
            f"jax.nn.initializers.{matrix}, which makes one matrix of all groups; give it the "
            "shape of one group: lambda key, shape, dtype: jax.vmap(lambda key: initializer(key, "
            "shape[:-1], dtype), out_axes=-1)(jax.random.split(key, shape[-1]))"
        )
    given = inspect.getclosurevars(unwrapped).nonlocals
    names = ("in_axis", "out_axis", "batch_axis")
    inputs, outputs, batch = (_positions(given[axis], spatial_axes + 3) for axis in names)
    channels, filters, groups = range(spatial_axes, spatial_axes + 3)
    if channels in inputs and filters in outputs and groups in inputs | outputs | batch:
        return
    raise ValueError(
        f"{name} must count fans on the axes of grouped weights, (..., channels per group, filters "
        "per group, groups): in_axis=-3, out_axis=-2, batch_axis=-1; got an initializer of "
        "jax.nn.initializers.variance_scaling with "
        + ", ".join(f"{axis}={given[axis]!r}" for axis in names)
    )


def _unwrap(initializer: Any) -> Any:
    """Removes wrappers that return the same values: partials, jit, and Flax's metadata boxes."""
    while True:
        if isinstance(initializer, functools.partial):
            initializer = initializer.func
        elif hasattr(initializer, "__wrapped__") and (
            isinstance(initializer, jax.stages.Wrapped) or _code(initializer) in _boxes()
        ):
            initializer = initializer.__wrapped__
        else:
            return initializer


@functools.cache
def _boxes() -> frozenset[types.CodeType | None]:
    # These imports are slow, and only Flax layers check initializers.
    import flax.linen as nn
    from flax import nnx

    zeros = jax.nn.initializers.zeros
    return frozenset(
        _code(wrapped)
        for wrapped in (
            nn.with_partitioning(zeros, ()),
            nn.with_logical_partitioning(zeros, ()),
            nnx.with_metadata(zeros),
        )
    )


def _positions(axes: Any, ndim: int) -> set[int]:
    return {axis % ndim for axis in ((axes,) if isinstance(axes, int) else axes)}
