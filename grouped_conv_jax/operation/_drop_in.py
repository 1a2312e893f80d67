"""A replacement for ``jax.lax.conv_general_dilated`` that runs grouped convolutions fast."""

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax.sharding import AbstractMesh
from jax.typing import DTypeLike

from grouped_conv_jax.operation import _marks
from grouped_conv_jax.operation._call import convolve
from grouped_conv_jax.operation._matching import forward_pass
from grouped_conv_jax.operation.sharding._explicit import is_on_explicit_axes


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: Any = None,
) -> jax.Array:
    """Computes ``jax.lax.conv_general_dilated``, with a fast path for grouped convolutions.

    This function calls ``jax.lax.conv_general_dilated`` in the scope of
    :func:`grouped_conv_jax.accelerate`. Grouped convolutions of floating-point arrays take the fast
    path, for any number of spatial dimensions and any dimension numbers, and so do ungrouped ones
    where that is faster. Everything else is lowered as lax lowers it.

    Args:
        lhs: input, with axes ordered by ``dimension_numbers``.
        rhs: filters, likewise.
        window_strides: step between outputs along each spatial axis.
        padding: ``"SAME"``, ``"VALID"``, ``"SAME_LOWER"`` or (before, after) for each spatial axis.
        lhs_dilation: distance between pixels of the input along each spatial axis.
        rhs_dilation: distance between filter taps along each spatial axis.
        dimension_numbers: as in ``jax.lax.conv_general_dilated``.
        feature_group_count: number of groups.
        batch_group_count: number of groups that the batch is split into.
        precision: as in ``jax.lax.conv_general_dilated``.
        preferred_element_type: dtype of sums and result.
        out_sharding: as in ``jax.lax.conv_general_dilated``.

    Returns:
        The convolution, with axes ordered by ``dimension_numbers``.

    Raises:
        TypeError: as ``jax.lax.conv_general_dilated``, whose checks run first.
        ValueError: likewise.

    Example:
        An existing Flax model needs one more argument; its parameters stay the same:

        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> from grouped_conv_jax import conv_general_dilated
        >>> x = jnp.ones((1, 8, 8, 16))
        >>> layer = nn.Conv(
        ...     16, (3, 3), feature_group_count=16, conv_general_dilated=conv_general_dilated
        ... )
        >>> layer.init_with_output(jax.random.key(0), x)[0].shape
        (1, 8, 8, 16)
    """
    arguments = (
        window_strides,
        padding,
        lhs_dilation,
        rhs_dilation,
        dimension_numbers,
        feature_group_count,
        batch_group_count,
        precision,
        preferred_element_type,
        out_sharding,
    )
    if _are_concrete(lhs, rhs):
        static = tuple(map(_tuples, arguments))
        if _are_plain(static[:4]) and _is_hashable(static[4:]):
            # An error is raised below, where lax's message quotes the arguments as they were given.
            with contextlib.suppress(TypeError, ValueError):
                return _jitted_convolve(lhs, rhs, *static)
    return _convolve(lhs, rhs, *arguments)


def _convolve(lhs: jax.Array, rhs: jax.Array, *arguments: Any) -> jax.Array:
    *own, out_sharding = arguments
    if own[_GROUPS] != 1 and out_sharding is None and is_on_explicit_axes(lhs, rhs):
        return _convolve_on_explicit_axes(lhs, rhs, own)
    with _marks.scope(None):
        return lax.conv_general_dilated(lhs, rhs, *arguments)


_GROUPS = 5
# For eager calls: lax's own Python takes longer than small convolutions.
_jitted_convolve = jax.jit(_convolve, static_argnums=range(2, 12), inline=True)


def _are_concrete(*arrays: Any) -> bool:
    return all(
        isinstance(array, jax.Array) and not isinstance(array, jax.core.Tracer) for array in arrays
    )


def _tuples(value: Any) -> Any:
    """Converts lists to tuples, which can be hashed."""
    return tuple(map(_tuples, value)) if type(value) in (list, tuple) else value


def _are_plain(values: tuple[Any, ...]) -> bool:
    """Whether all numbers are Python integers: 1.0 and True equal 1 but are other arguments."""
    return all(
        _are_plain(value) if type(value) is tuple else value is None or type(value) in (int, str)
        for value in values
    )


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


conv_general_dilated_with_pointwise = conv_general_dilated
"""An older name of :func:`conv_general_dilated`."""


def _convolve_on_explicit_axes(lhs: jax.Array, rhs: jax.Array, arguments: list[Any]) -> jax.Array:
    """Computes a grouped convolution over explicit axes, for which lax has no sharding rule."""
    # Tracing without the mesh applies lax's argument checks but not its checks of shardings.
    images, filters = (jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (lhs, rhs))
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
        convolve_types = jax.make_jaxpr(lambda a, b: lax.conv_general_dilated(a, b, *arguments))
        (equation,) = convolve_types(images, filters).eqns
    matched = forward_pass(images, filters, equation.params)
    if isinstance(matched, str):
        # The trace has converted the numbers already.
        names = ("window_strides", "padding", "lhs_dilation", "rhs_dilation")
        numbers = [equation.params[name] for name in names]
        return lax.conv_general_dilated(lhs, rhs, *numbers, *arguments[len(numbers) :])
    return matched.result(convolve(*matched.operands(lhs, rhs), matched.convolution, None))
