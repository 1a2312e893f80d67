"""A replacement for ``jax.lax.conv_general_dilated`` that runs grouped convolutions fast."""

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
    """Does what ``jax.lax.conv_general_dilated`` does, and grouped convolutions faster.

    It is ``jax.lax.conv_general_dilated`` under the mark of :func:`grouped_conv_jax.accelerate`:
    grouped convolutions of floating-point arrays take the fast path, for any number of spatial
    dimensions and any dimension numbers, and so does one group where that is faster. Everything
    else is lowered as lax lowers it.

    Args:
        lhs: input, axes as ``dimension_numbers`` says.
        rhs: filters, likewise.
        window_strides: step between outputs along each spatial axis.
        padding: ``"SAME"``, ``"VALID"``, ``"SAME_LOWER"`` or (before, after) for each spatial axis.
        lhs_dilation: distance between pixels of the input along each spatial axis.
        rhs_dilation: distance between filter taps along each spatial axis.
        dimension_numbers: as in ``jax.lax.conv_general_dilated``.
        feature_group_count: number of groups.
        batch_group_count: number of groups of the batch.
        precision: as in ``jax.lax.conv_general_dilated``.
        preferred_element_type: dtype of sums and result.
        out_sharding: as in ``jax.lax.conv_general_dilated``.

    Returns:
        The convolution, its axes as ``dimension_numbers`` says.

    Raises:
        TypeError: as ``jax.lax.conv_general_dilated``, whose checks run first.
        ValueError: likewise.

    Example:
        An existing Flax model gets it by one argument, its parameters untouched:

        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> from grouped_conv_jax import conv_general_dilated
        >>> x = jnp.ones((1, 8, 8, 16))
        >>> layer = nn.Conv(
        ...     16, (3, 3), feature_group_count=16, conv_general_dilated=conv_general_dilated
        ... )
        >>> layer.init_with_output(jax.random.key(0), x)[0].shape
        (1, 8, 8, 16)
    """
    arguments = {
        "window_strides": window_strides,
        "padding": padding,
        "lhs_dilation": lhs_dilation,
        "rhs_dilation": rhs_dilation,
        "dimension_numbers": dimension_numbers,
        "feature_group_count": feature_group_count,
        "batch_group_count": batch_group_count,
        "precision": precision,
        "preferred_element_type": preferred_element_type,
    }
    if feature_group_count != 1 and out_sharding is None and is_on_explicit_axes(lhs, rhs):
        return _convolve_as_planned(lhs, rhs, arguments)
    with _marks.scope(None):
        return lax.conv_general_dilated(lhs, rhs, out_sharding=out_sharding, **arguments)


conv_general_dilated_with_pointwise = conv_general_dilated
"""An older name of :func:`conv_general_dilated`."""


def _convolve_as_planned(lhs: jax.Array, rhs: jax.Array, arguments: dict[str, Any]) -> jax.Array:
    """Over explicit axes of a mesh lax has no rule for groups; in canonical order, we have."""
    # The checks are lax's own, and so are their messages; but more may be sharded here than there.
    whole = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (lhs, rhs)]
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
        equation = jax.make_jaxpr(lambda a, b: lax.conv_general_dilated(a, b, **arguments))(*whole)
    (found,) = equation.eqns
    matched = forward_pass(whole[0], whole[1], found.params)
    if isinstance(matched, str):
        # Iterators among the arguments have been read by now.
        numbers = ("window_strides", "padding", "lhs_dilation", "rhs_dilation")
        read = {name: found.params[name] for name in numbers}
        return lax.conv_general_dilated(lhs, rhs, **arguments | read)
    return matched.result(convolve(*matched.operands(lhs, rhs), matched.convolution, None))
