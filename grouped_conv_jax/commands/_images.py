"""Images from files that nobody has checked."""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

PIXEL_MAXIMUM = 255


def printable(path: Path) -> str:
    """A path as text; bytes that are no text become escapes, so that names stay distinct."""
    return os.fsencode(path).decode(errors="backslashreplace")


class UnreadableImageError(Exception):
    """A file that Pillow does not read as an image; the message says why."""


def read_image(path: Path, image_size: tuple[int, int], channels: int) -> np.ndarray:
    """Reads an image of any size and mode.

    It is turned as its camera says, what is transparent becomes white, and it is resized without
    regard to its proportions. Of an animation it is the first frame. Grey values of more than
    eight bits are scaled: 16-bit ones from their whole range, 32-bit integers and floats, whose
    range no format defines, from the image's own darkest to its own brightest.

    Args:
        path: the file.
        image_size: (height, width) of the result, in pixels.
        channels: 1 for grey, 3 for red, green, blue.

    Returns:
        ``(height, width, channels)`` of dtype uint8.

    Raises:
        UnreadableImageError: the file is no image, is damaged, or is too large to be trusted.
    """
    from PIL import Image

    Image.init()
    # EPS is a program, which Pillow would have Ghostscript run.
    formats = [name for name in Image.OPEN if name != "EPS"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats) as image:
                return _to_array(image, image_size, channels)
    # Pillow's decoders raise errors of many kinds, whatever a damaged file leads them to.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableImageError(reason) from error


def _to_array(image: "Image", image_size: tuple[int, int], channels: int) -> np.ndarray:
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_to_eight_bits(np.asarray(image), image.mode))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    height, width = image_size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(height, width, channels)


def _to_eight_bits(grey: np.ndarray, mode: str) -> np.ndarray:
    if mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        low, high = float(grey.min()), float(grey.max())
        if not np.isfinite([low, high]).all():
            raise ValueError("has pixels that are not finite")
    # An image of one value has no range; it becomes black.
    scale = PIXEL_MAXIMUM / (high - low) if high > low else 0.0
    return np.rint((grey.astype(np.float64) - low) * scale).astype(np.uint8)
