"""Tells which implementation computes what, and why."""

from typing import Any

import jax

from grouped_conv_jax import _checks, _primitive
from grouped_conv_jax._choice import PLATFORMS, Choice, choose
from grouped_conv_jax._convolution import Role
from grouped_conv_jax._functional import grouped_conv2d


def explain(
    x: Any, weights: Any, *, platform: str | None = None, **arguments: Any
) -> dict[str, Choice]:
    """Returns the implementation of each role of a grouped convolution, and why it is used.

    Nothing is computed, so ``jax.ShapeDtypeStruct`` will do for the arrays.

    Args:
        x: as for :func:`grouped_conv_jax.grouped_conv2d`.
        weights: likewise.
        platform: ``"cpu"``, ``"cuda"``, ``"rocm"`` or ``"tpu"``; by default JAX's default backend.
        **arguments: the keyword arguments of :func:`grouped_conv_jax.grouped_conv2d`.

    Returns:
        For ``"forward"``, ``"input_gradient"`` and ``"filter_gradient"`` a pair
        ``(implementation, reason)``.

    Raises:
        TypeError: as :func:`grouped_conv_jax.grouped_conv2d`.
        ValueError: likewise.
        NotImplementedError: the implementation asked for cannot compute one of the roles.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from grouped_conv_jax import explain
        >>> x = jax.ShapeDtypeStruct((8, 56, 56, 128), jnp.float32)
        >>> weights = jax.ShapeDtypeStruct((3, 3, 1, 1, 128), jnp.float32)
        >>> explain(x, weights, padding="same", platform="cpu")["forward"].implementation
        'taps'
    """
    if platform is None:
        backend = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    else:
        backend = _checks.word("platform", platform, PLATFORMS, "None")
    jaxpr = jax.make_jaxpr(lambda x, weights: grouped_conv2d(x, weights, **arguments))(x, weights)
    bound = [eqn.params for eqn in jaxpr.jaxpr.eqns if eqn.primitive is _primitive.primitive]
    *_, channels, filters, _ = weights.shape
    choices = {}
    for role in reversed(Role):
        choice = Choice("lax", "one group, or lax asked for by name")
        if bound:
            description, name = bound[0]["convolution"], bound[0]["implementation"]
            choice = choose(role, description, channels, filters, backend, name)
        choices[role.name.lower()] = choice
    return choices
