"""Images from files that nobody has checked."""

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
# Pillow opens 16-bit greys of these formats as 32-bit integers, depending on its version.
_FORMATS_OF_16_BITS = ("PNG", "PPM")
HOW_IMAGES_ARE_READ = """\
how images are read, by train and predict alike:
  They are resized to HEIGHTxWIDTH (bilinear), which changes their proportions where
  these differ. Transparent pixels become white. Images are turned as their camera
  says; of an animation, the first frame counts.
  8 bits a channel: rounded to whole numbers after resizing, then divided by 255.
  16-bit greys: divided by 65535, not rounded.
  32-bit integers and floats have no range of their own: the smallest value of all such
  images in --data, after resizing, becomes 0 and the largest 1, in float32. config.json
  keeps the two as value_range. predict maps values alike and does not clip them.
"""

ValueRange: TypeAlias = tuple[float, float]
"""The values that become 0 and 1."""


class UnreadableImageError(Exception):
    """A file that Pillow does not read as an image; the message says why."""


class Picture(NamedTuple):
    """An image in the size of the data set.

    Attributes:
        values: ``(H, W, C)``: uint8 for eight bits a channel, otherwise float32, as in the file.
        maximum: the value of white; ``None`` for formats that define none.
    """

    values: np.ndarray
    maximum: int | None

    def to_unit(self, value_range: ValueRange | None) -> np.ndarray:
        """Maps the values to the interval from 0 to 1, as float32.

        Args:
            value_range: what becomes 0 and 1 where the format defines no maximum.

        Raises:
            UnreadableImageError: the range is needed and ``None``.
        """
        if self.maximum == PIXEL_MAXIMUM:
            return self.values.astype(np.float32) / np.float32(PIXEL_MAXIMUM)
        if self.maximum is not None:
            value_range = 0, self.maximum
        if value_range is None:
            raise UnreadableImageError(
                "has 32-bit values, for which there is no range: "
                "no image that the network was trained on has them"
            )
        low, high = value_range
        # Images of one value have no range; they become black.
        scale = 1 / (high - low) if high > low else 0.0
        return ((self.values.astype(np.float64) - low) * scale).astype(np.float32)


def as_text(path: Path) -> str:
    """A path as text; bytes that are no text become escapes, so that names stay distinct."""
    return os.fsencode(path).decode(errors="backslashreplace")


def printable(path: Path) -> str:
    """A path as text on one line, without tabs or other control characters."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in as_text(path)
    )


def visible(paths: Iterable[Path], below: Path | None = None) -> list[Path]:
    """The paths in order, without those that are hidden, or in a hidden folder, below a folder."""
    parts = (lambda p: p.relative_to(below).parts) if below else (lambda p: p.parts[-1:])
    return sorted(p for p in paths if not any(part.startswith(".") for part in parts(p)))


def read_image(path: Path, image_size: tuple[int, int], channels: int) -> Picture:
    """Reads an image of any size and mode, as :data:`HOW_IMAGES_ARE_READ` says.

    Args:
        path: the file.
        image_size: (height, width) of the result, in pixels.
        channels: 1 for grey, 3 for red, green, blue.

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
                return _to_picture(image, image_size, channels)
    # Pillow's decoders raise errors of many kinds, whatever a damaged file leads them to.
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
    """The greys of an image as float32."""
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise ValueError("has pixels that are not finite")
    transparent = image.info.get("transparency")
    if transparent is not None and maximum is not None:
        values = np.where(values == transparent, maximum, values)
    return values.astype(np.float32)
