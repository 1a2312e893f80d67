"""Conversion of image batches between a data format and the layers' ``(B, H, W, C)``."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

Array = TypeVar("Array", npt.NDArray[Any], jax.Array)

_ALIASES = {"NHWC": "BSSC", "NCHW": "BCSS"}


def to_bssc(name: str, images: Array, data_format: str) -> Array:
    """Reorders the axes of ``images`` to ``(B, H, W, C)``.

    Raises:
        TypeError: ``data_format`` is not a string, or ``images`` is not an array.
        ValueError: ``data_format`` does not describe a batch of images, or ``images`` does not
            have four axes.
    """
    axes = _axes(data_format)
    if not isinstance(images, np.ndarray | jax.Array):
        raise TypeError(f"{name} must be an array, got {type(images).__name__}")
    if images.ndim != 4:
        raise ValueError(
            f"{name} must have four axes (data_format {data_format!r}), got shape {images.shape}"
        )
    return images.transpose(axes)


def check_batch(name: str, images: Any, data_format: str) -> npt.NDArray[Any]:
    """Checks for a nonempty batch of real-valued images and returns it as ``(B, H, W, C)``."""
    found = to_bssc(
        name, np.asarray(images) if isinstance(images, jax.Array) else images, data_format
    )
    if not (jnp.issubdtype(found.dtype, jnp.floating) or jnp.issubdtype(found.dtype, jnp.integer)):
        raise TypeError(f"{name} must be real numbers, got {found.dtype}")
    if not len(found):
        raise ValueError(f"{name} must hold at least one image, got shape {images.shape}")
    return found


def from_bssc(images: Array, data_format: str) -> Array:
    """Inverts `to_bssc`."""
    axes = _axes(data_format)
    return images.transpose([axes.index(i) for i in range(4)])


def check_format(data_format: Any) -> None:
    """Raises unless ``data_format`` describes a batch of images."""
    _axes(data_format)


def _axes(data_format: Any) -> list[int]:
    rule = "data_format must hold 'B' and 'C' once and 'S' twice, or be 'NHWC' or 'NCHW'"
    if not isinstance(data_format, str):
        raise TypeError(f"{rule}, got {data_format!r}")
    letters = _ALIASES.get(data_format.upper(), data_format.upper())
    if not data_format.isascii() or sorted(letters) != sorted("BSSC"):
        raise ValueError(f"{rule}, got {data_format!r}")
    height = letters.index("S")
    return [letters.index("B"), height, letters.index("S", height + 1), letters.index("C")]
