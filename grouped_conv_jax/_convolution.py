"""The static description of one grouped convolution, and the way from it to an implementation.

Everything below the public functions works on one canonical order of axes: images
``(B, *spatial, G*C)``, filters ``(*filter, C, G*F)`` with the group-major outputs that JAX calls
``HWIO`` for images, and results ``(B, *spatial, G*F)``.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from grouped_conv_jax import _checks
from grouped_conv_jax._implementations import lax


@dataclasses.dataclass(frozen=True)
class Convolution:
    """One grouped convolution in canonical order; hashable, so that it can be static.

    Attributes:
        groups: number of groups, each with its own channels and filters.
        strides: one an axis.
        padding: zeros added (before, after) each axis.
        dilation: distance between the taps of a filter, one an axis.
        precision: as in ``jax.lax.conv_general_dilated``.
        preferred_element_type: dtype of sums and result, or ``None`` for the operands' own dtype
            with sums in at least float32.
    """

    groups: int
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    precision: Any = None
    preferred_element_type: DTypeLike | None = None


Implementation = Callable[[jax.Array, jax.Array, Convolution], jax.Array]

IMPLEMENTATIONS: dict[str, Implementation] = {"lax": lax.forward}


def check_implementation(implementation: Any) -> str | None:
    """Returns the name of an implementation, or ``None`` for the choice of this package."""
    if implementation is None:
        return None
    return _checks.word("implementation", implementation, tuple(IMPLEMENTATIONS), "None")


def check_precision(precision: Any) -> Any:
    """Returns ``precision``; raises ``ValueError`` unless lax knows it."""
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
    # The names that lax knows are not public; the smallest convolution tells.
    image = jax.ShapeDtypeStruct((1, 1, 1), jnp.float32)
    smallest = Convolution(1, (1,), ((0, 0),), (1,), precision)
    jax.eval_shape(functools.partial(lax.forward, convolution=smallest), image, image)


def convolve(
    x: jax.Array, filters: jax.Array, convolution: Convolution, implementation: str | None
) -> jax.Array:
    """Returns ``(B, *out, G*F)`` for ``x`` ``(B, *in, G*C)`` and filters ``(*filter, C, G*F)``."""
    return IMPLEMENTATIONS[implementation or "lax"](x, filters, convolution)
