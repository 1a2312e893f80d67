"""A replacement for ``jax.lax.conv_general_dilated`` that runs grouped convolutions fast."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from grouped_conv_jax import _choice, _primitive
from grouped_conv_jax._convolution import Convolution, Role, static_precision

_Parameters = ParamSpec("_Parameters")


def _with_parameters_of(
    function: Callable[_Parameters, jax.Array],
) -> Callable[[Callable[..., jax.Array]], Callable[_Parameters, jax.Array]]:
    """Gives a function the signature of another, for type checkers and for ``inspect``."""

    def give(to: Callable[..., jax.Array]) -> Callable[_Parameters, jax.Array]:
        to.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return to

    return give


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

    Grouped convolutions of floating-point arrays take the fast path, for any number of spatial
    dimensions and any dimension numbers; everything else goes to lax unchanged: one group,
    ``lhs_dilation`` (transposed convolutions), ``batch_group_count``, ``out_sharding``, other
    dtypes.

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
    return _convolve(
        lhs,
        rhs,
        with_pointwise=False,
        out_sharding=out_sharding,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


@_with_parameters_of(conv_general_dilated)
def conv_general_dilated_with_pointwise(*args: Any, **kwargs: Any) -> jax.Array:
    """Does what :func:`conv_general_dilated` does, and dense 1x1 filters as matrix products.

    Networks of grouped convolutions spend most of their time in the dense 1x1 filters between
    them, of which XLA:CPU does not make the matrix products that they are. Here one group with 1x1
    filters and no padding is computed by what :func:`explain` names, where its operands are not
    sharded over explicit axes of a mesh; results differ from lax's by rounding. Other dense
    convolutions go to lax unchanged.

    Args:
        args: those of :func:`conv_general_dilated`.
        kwargs: likewise.

    Returns:
        The convolution, its axes as ``dimension_numbers`` says.

    Raises:
        TypeError: as ``jax.lax.conv_general_dilated``, whose checks run first.
        ValueError: likewise.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> from grouped_conv_jax import conv_general_dilated_with_pointwise
        >>> layer = nnx.Conv(
        ...     16,
        ...     32,
        ...     (1, 1),
        ...     conv_general_dilated=conv_general_dilated_with_pointwise,
        ...     rngs=nnx.Rngs(0),
        ... )
        >>> layer(jnp.ones((1, 8, 8, 16))).shape
        (1, 8, 8, 32)
    """
    bound = inspect.signature(conv_general_dilated).bind(*args, **kwargs)
    bound.apply_defaults()
    return _convolve(with_pointwise=True, **bound.arguments)


def _convolve(
    lhs: jax.Array, rhs: jax.Array, *, with_pointwise: bool, out_sharding: Any, **arguments: Any
) -> jax.Array:
    """Takes the fast path where there is one, for 1x1 filters of one group if they are asked for.

    ``arguments`` are the others of ``jax.lax.conv_general_dilated``, each of them.
    """
    if out_sharding is not None:
        return lax.conv_general_dilated(lhs, rhs, out_sharding=out_sharding, **arguments)
    fast = with_pointwise or arguments["feature_group_count"] != 1
    plain = arguments["batch_group_count"] == 1 and _is_plain(lhs, rhs, arguments["lhs_dilation"])
    if not (fast and plain):
        return lax.conv_general_dilated(lhs, rhs, **arguments)

    # The checks are lax's own, and so are their messages; but more may be sharded here than there.
    whole = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (lhs, rhs)]
    result = jax.eval_shape(lambda a, b: lax.conv_general_dilated(a, b, **arguments), *whole)
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, arguments["dimension_numbers"])
    image = tuple(lhs.shape[axis] for axis in numbers.lhs_spec[2:])
    filter_size = tuple(rhs.shape[axis] for axis in numbers.rhs_spec[2:])
    if not all(isinstance(size, int) for size in (*image, *filter_size)) or 0 in rhs.shape:
        return lax.conv_general_dilated(lhs, rhs, **arguments)
    strides, padding = arguments["window_strides"], arguments["padding"]
    dilation = arguments["rhs_dilation"]
    dilation = (1,) * len(image) if dilation is None else tuple(map(int, dilation))
    if min(*strides, *dilation) < 1:
        return lax.conv_general_dilated(lhs, rhs, **arguments)
    if isinstance(padding, str):
        effective = [(k - 1) * d + 1 for k, d in zip(filter_size, dilation, strict=True)]
        padding = lax.padtype_to_pads(image, effective, strides, padding)
    convolution = Convolution(
        image=image,
        filter_size=filter_size,
        groups=arguments["feature_group_count"],
        strides=tuple(map(int, strides)),
        padding=tuple((int(before), int(after)) for before, after in padding),
        dilation=dilation,
        precision=static_precision(arguments["precision"]),
        preferred_element_type=(
            None if arguments["preferred_element_type"] is None else result.dtype
        ),
    )
    if _choice.is_left_to_lax(lhs, rhs, convolution):
        return lax.conv_general_dilated(lhs, rhs, **arguments)
    x = jnp.transpose(lhs, _batch_first_channels_last(numbers.lhs_spec))
    filters = jnp.transpose(rhs, [*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0]])
    y = _primitive.bind(Role.FORWARD, x, filters, convolution, dtype=result.dtype)
    order = _batch_first_channels_last(numbers.out_spec)
    return jnp.transpose(y, [order.index(axis) for axis in range(y.ndim)])


def _is_plain(lhs: jax.Array, rhs: jax.Array, lhs_dilation: Sequence[int] | None) -> bool:
    """Whether the operands are floating-point images without holes."""
    spatial = len(lhs.shape) - 2
    undilated = lhs_dilation is None or all(dilation == 1 for dilation in lhs_dilation)
    return (
        spatial > 0
        and undilated
        and jnp.issubdtype(lhs.dtype, jnp.floating)
        and lhs.dtype == rhs.dtype
    )


def _batch_first_channels_last(spec: Sequence[int]) -> list[int]:
    """``(batch, channels, *spatial)``, as JAX orders its dimension numbers, in canonical order."""
    return [spec[0], *spec[2:], spec[1]]
