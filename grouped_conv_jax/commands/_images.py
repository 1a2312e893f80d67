"""Reads images from untrusted files."""

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

PIXEL_MAXIMUM = 255
_MAXIMUM_OF_16_BITS = 65535
# Some versions of Pillow open 16-bit grey images in these formats as 32-bit integers.
_FORMATS_OF_16_BITS = ("PNG", "PPM")
HOW_IMAGES_ARE_READ = """\
how train and predict read images:
  Images are rotated according to their EXIF orientation and resized to HEIGHTxWIDTH
  (bilinear), without keeping their proportions. Transparent pixels become white. Only
  the first frame of an animation is read.
  8 bits per channel: rounded to integers after resizing, then divided by 255.
  16-bit grey: divided by 65535 without rounding.
  32-bit integers and floats: their formats define no range, so training maps the
  smallest value of all such images in --data, after resizing, to 0 and the largest to
  1, in float32. config.json stores these two values as value_range, and predict
  applies the same mapping without clipping.
"""

ValueRange: TypeAlias = tuple[float, float]
"""The values that are mapped to 0 and 1."""


class UnreadableImageError(Exception):
    """Pillow cannot read a file as an image; the message gives the reason."""


class Picture(NamedTuple):
    """An image, resized to the image size of the data set.

    Attributes:
        values: ``(H, W, C)``: uint8 for eight bits per channel, otherwise float32, not yet scaled.
        maximum: the value of white; ``None`` for formats that define none.
    """

    values: np.ndarray
    maximum: int | None

    def to_unit(self, value_range: ValueRange | None) -> np.ndarray:
        """Maps the values to [0, 1], as float32.

        Args:
            value_range: the values to map to 0 and 1 if the format defines no maximum.

        Raises:
            UnreadableImageError: the format defines no maximum, and ``value_range`` is ``None``.
        """
        if self.maximum == PIXEL_MAXIMUM:
            return self.values.astype(np.float32) / np.float32(PIXEL_MAXIMUM)
        if self.maximum is not None:
            value_range = 0, self.maximum
        if value_range is None:
            raise UnreadableImageError(
                "has 32-bit values, for which there is no range: no training image has such values"
            )
        low, high = value_range
        # An empty range maps to 0, black.
        scale = 1 / (high - low) if high > low else 0.0
        return ((self.values.astype(np.float64) - low) * scale).astype(np.float32)


def as_text(path: Path) -> str:
    """Decodes a path; escapes undecodable bytes, to keep names distinct."""
    return os.fsencode(path).decode(errors="backslashreplace")


def printable(path: Path) -> str:
    """Decodes a path to one line; escapes tabs and other control characters."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in as_text(path)
    )


def visible(paths: Iterable[Path], below: Path | None = None) -> list[Path]:
    """Sorts paths and drops hidden ones, including those in hidden folders below ``below``."""
    parts = (lambda p: p.relative_to(below).parts) if below else (lambda p: p.parts[-1:])
    return sorted(p for p in paths if not any(part.startswith(".") for part in parts(p)))


def read_image(path: Path, image_size: tuple[int, int], channels: int) -> Picture:
    """Reads an image of any size and mode, as :data:`HOW_IMAGES_ARE_READ` describes.

    Args:
        path: path of the file.
        image_size: (height, width) of the result, in pixels.
        channels: 1 for grey, 3 for red, green and blue.

    Raises:
        UnreadableImageError: the file is not an image, is damaged, or exceeds Pillow's size limit.
    """
    from PIL import Image

    Image.init()
    # EPS files are programs, which Pillow would run in Ghostscript.
    formats = [name for name in Image.OPEN if name != "EPS"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats) as image:
                return _to_picture(image, image_size, channels)
    # Pillow's decoders raise errors of many types for damaged files.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableImageError(reason) from error


def _to_picture(image: "Image", image_size: tuple[int, int], channels: int) -> Picture:
    from PIL import Image, ImageOps

    height, width = image_size
    maximum = _maximum(image)
    image = ImageOps.exif_transpose(image)
    if maximum == PIXEL_MAXIMUM:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
    else:
        image = Image.fromarray(_to_floats(image, maximum))
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    values = np.asarray(image).reshape(height, width, -1)
    return Picture(np.broadcast_to(values, (height, width, channels)), maximum)


def _maximum(image: "Image") -> int | None:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _FORMATS_OF_16_BITS):
        return _MAXIMUM_OF_16_BITS
    return None if image.mode in ("I", "F") else PIXEL_MAXIMUM


def _to_floats(image: "Image", maximum: int | None) -> np.ndarray:
    """Converts a grey image to float32; transparent pixels become white."""
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise ValueError("has pixels that are not finite")
    transparent = image.info.get("transparency")
    if transparent is not None and maximum is not None:
        values = np.where(values == transparent, maximum, values)
    return values.astype(np.float32)
