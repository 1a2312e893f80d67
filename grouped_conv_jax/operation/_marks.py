"""The mark that selects this package's lowering for a convolution of ``jax.lax``.

A mark is XLA metadata. JAX attaches it to every equation bound in its scope, preserves it under
every transformation, copies it to the equations that differentiation derives, and includes it in
the keys of its caches. :mod:`grouped_conv_jax.operation._lowering` reads it.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar, overload

from jax.experimental.xla_metadata import set_xla_metadata

from grouped_conv_jax import _checks

KEY = "grouped_conv_jax"
CHOOSE = "auto"
"""The mark that lets ``_choice`` choose; other marks are names of implementations."""
LAX = "lax"
"""The mark that selects JAX's own lowering, also within the scope of another mark."""

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def scope(implementation: str | None) -> contextlib.AbstractContextManager[Any]:
    """Marks the equations traced within: with an implementation's name, or ``None`` to choose."""
    return set_xla_metadata(**{KEY: implementation or CHOOSE})


def no_scope() -> contextlib.AbstractContextManager[Any]:
    """Leaves the equations traced within unmarked, even inside the scope of a mark."""
    return set_xla_metadata(**{KEY: None})


def read(metadata: Mapping[str, Any]) -> str | None:
    """Returns the mark in an equation's metadata, or ``None``."""
    return metadata.get(KEY)


def _decorated(function: Callable[..., Any], mark: str | None) -> Callable[..., Any]:
    @functools.wraps(function)
    def accelerated(*arguments: Any, **keywords: Any) -> Any:
        with scope(mark):
            return function(*arguments, **keywords)

    return accelerated


@contextlib.contextmanager
def _accelerating(mark: str | None) -> Iterator[None]:
    with scope(mark):
        yield


@overload
def accelerate(*, enabled: bool = True) -> "contextlib._GeneratorContextManager[None]": ...
@overload
def accelerate(
    function: Callable[_Parameters, _Result], *, enabled: bool = True
) -> Callable[_Parameters, _Result]: ...
def accelerate(function: Callable[..., Any] | None = None, *, enabled: bool = True) -> Any:
    """Runs the convolutions of any JAX program on the fast path.

    Every ``jax.lax.conv_general_dilated`` traced in the scope, and every convolution that
    differentiation or batching derives from one, is lowered to this package's implementation where
    that is faster. Neither the model nor its jaxpr changes. The scope composes with every
    transformation inside and outside of it, belongs to one thread, and is part of the key of JAX's
    caches, so a jitted function that is also called outside of the scope runs unchanged there.
    :func:`grouped_conv_jax.explain` lists what runs.

    Args:
        function: the function to run in the scope. Without it, ``accelerate`` returns a context
            manager that is also a decorator.
        enabled: ``False`` leaves the convolutions within to JAX.

    Returns:
        ``function`` with its convolutions accelerated, or a context manager.

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
    mark = None if _checks.boolean("enabled", enabled) else LAX
    if function is None:
        return _accelerating(mark)
    if not callable(function) or isinstance(function, type):
        raise TypeError(
            "accelerate takes a function, or keywords only to make a context manager, "
            f"got {function!r}"
        )
    return _decorated(function, mark)
