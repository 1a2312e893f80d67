"""The keyword arguments of a grouped convolution, checked."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from grouped_conv_jax import _checks
from grouped_conv_jax._layout import Layout
from grouped_conv_jax._padding import Padding
from grouped_conv_jax.operation._choice import check_implementation


@dataclasses.dataclass(frozen=True)
class Options:
    """The keyword arguments of a grouped convolution, checked and hashable.

    Attributes:
        layout: the order of the input's axes.
        strides: one number per spatial axis.
        dilation: likewise.
        padding: the pixels added around the image.
        implementation: the name of an implementation, or ``None``.
        precision: as in ``jax.lax.conv_general_dilated``.
        element_type: dtype of sums and result, or ``None``.
    """

    layout: Layout
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Padding
    implementation: str | None
    precision: Any
    element_type: np.dtype[Any] | None

    @classmethod
    def parse(
        cls,
        axes: int,
        *,
        stride: Any = 1,
        dilation_factor: Any = 1,
        padding: Any = 0,
        padding_value: Any = 0,
        data_format: Any,
        implementation: Any = None,
        precision: Any = None,
        preferred_element_type: Any = None,
    ) -> "Options":
        """Checks the keyword arguments of :func:`grouped_conv` for a number of spatial axes."""
        return cls(
            Layout.parse(data_format, axes),
            _checks.per_axis("stride", stride, axes),
            _checks.per_axis("dilation_factor", dilation_factor, axes),
            Padding.parse(padding, padding_value, axes),
            check_implementation(implementation),
            _check_precision(precision),
            _element_type(preferred_element_type),
        )


def _element_type(preferred: DTypeLike | None) -> np.dtype[Any] | None:
    """Returns the dtype of sums and result in a hashable form."""
    if preferred is None:
        return None
    dtype = _checks.floating_dtype("preferred_element_type", preferred)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"preferred_element_type={preferred!r} needs jax_enable_x64")
    return dtype


def _check_precision(precision: Any) -> Any:
    try:
        _trace_with_precision(precision)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "precision must be hashable and one that jax.lax.conv_general_dilated takes, "
            f"got {precision!r}"
        ) from error
    return precision


@functools.cache
def _trace_with_precision(precision: Any) -> None:
    # The names of precisions are not public, so lax checks them itself in the smallest convolution.
    image = jax.ShapeDtypeStruct((1, 1, 1), jnp.float32)
    convolve = functools.partial(
        jax.lax.conv_general_dilated, window_strides=(1,), padding="VALID", precision=precision
    )
    jax.eval_shape(convolve, image, image)
