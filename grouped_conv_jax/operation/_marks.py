"""The mark by which a convolution of ``jax.lax`` asks for this package's lowering.

A mark is XLA metadata: JAX attaches it to every equation that is bound in its scope, carries it
through every transformation, hands it on to the equations that differentiation derives, and keys
its caches by it. :mod:`grouped_conv_jax.operation._lowering` reads it.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar, overload

from jax.experimental.xla_metadata import set_xla_metadata

from grouped_conv_jax import _checks

KEY = "grouped_conv_jax"
CHOOSE = "auto"
"""Marks what is computed by whatever is fastest; other marks are names of implementations."""
LAX = "lax"
"""Marks what is left to JAX's own lowering, also within the scope of another mark."""

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def scope(implementation: str | None) -> contextlib.AbstractContextManager[Any]:
    """Marks what is traced within: with a name, or ``None`` for the choice of this package."""
    return set_xla_metadata(**{KEY: implementation or CHOOSE})


def no_scope() -> contextlib.AbstractContextManager[Any]:
    """Marks nothing within, whatever is around it."""
    return set_xla_metadata(**{KEY: None})


def of(metadata: Mapping[str, Any]) -> str | None:
    """The mark in an equation's metadata, if there is one."""
    return metadata.get(KEY)


@contextlib.contextmanager
def _accelerating(enabled: bool) -> Iterator[None]:
    with scope(None if enabled else LAX):
        yield


@overload
def accelerate(*, enabled: bool = True) -> "contextlib._GeneratorContextManager[None]": ...
@overload
def accelerate(
    function: Callable[_Parameters, _Result], *, enabled: bool = True
) -> Callable[_Parameters, _Result]: ...
def accelerate(function: Callable[..., Any] | None = None, *, enabled: bool = True) -> Any:
    """Runs the convolutions of any JAX program on the fast path.

    Every ``jax.lax.conv_general_dilated`` that is traced in its scope, whoever calls it, and every
    convolution that differentiation or batching makes of it, is lowered to this package's
    implementation where there is one that is faster. Neither the model nor its jaxpr changes. The
    scope composes with every transformation inside and outside of it, belongs to one thread, and
    is part of the key of JAX's caches: a jitted function that is also called outside of it runs
    unchanged there. :func:`grouped_conv_jax.explain` lists what runs.

    Args:
        function: what to run in the scope; without it, a context manager is returned, which also
            serves as a decorator.
        enabled: ``False`` leaves the convolutions within to JAX.

    Returns:
        A function that does the same, faster; or a context manager.

    Raises:
        TypeError: ``function`` is not callable or is a class, or ``enabled`` is not a ``bool``.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> import grouped_conv_jax as gcj
        >>> model = nn.Conv(16, (3, 3), feature_group_count=16)
        >>> x = jnp.ones((1, 8, 8, 16))
        >>> variables = model.init(jax.random.key(0), x)
        >>> with gcj.accelerate():
        ...     y = jax.jit(model.apply)(variables, x)
        >>> @gcj.accelerate
        ... def loss(variables, x):
        ...     return jnp.sum(model.apply(variables, x) ** 2)
        >>> gradients = jax.jit(jax.grad(loss))(variables, x)
    """
    enabled = _checks.boolean("enabled", enabled)
    if function is None:
        return _accelerating(enabled)
    if not callable(function) or isinstance(function, type):
        raise TypeError(
            "accelerate takes a function, or nothing but keywords as a context manager, "
            f"got {function!r}"
        )
    return _accelerating(enabled)(function)
