"""Single images of every mode, and files that must not be trusted."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from test_data import grey, save

from grouped_conv_jax.commands._images import UnreadableImageError, read_image

RED = (255, 0, 0)
MODES = {
    # mode: the image, the file's name, the colour that it shows
    "1": (Image.new("1", (4, 4), 1), "a.png", (255, 255, 255)),
    "L": (grey(77), "a.png", (77, 77, 77)),
    "LA": (Image.new("LA", (4, 4), (77, 255)), "a.png", (77, 77, 77)),
    "P": (Image.new("RGB", (4, 4), RED).convert("P"), "a.png", RED),
    "RGB": (Image.new("RGB", (4, 4), (1, 2, 3)), "a.png", (1, 2, 3)),
    "RGBA": (Image.new("RGBA", (4, 4), (1, 2, 3, 255)), "a.png", (1, 2, 3)),
    "CMYK": (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "a.tif", RED),
    "I;16": (Image.fromarray(np.full((4, 4), 257 * 9, np.uint16)), "a.png", (9, 9, 9)),
    "transparent": (Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "a.png", (255, 255, 255)),
    "half transparent": (Image.new("LA", (4, 4), (55, 51)), "a.png", (215, 215, 215)),
}


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_any_mode_shows_its_colour(tmp_path, mode):
    image, name, colour = MODES[mode]
    path = save(tmp_path / name, image)
    expected = np.broadcast_to(np.uint8(colour), (3, 5, 3))
    pixels = read_image(path, (3, 5), channels=3).to_unit(None)
    np.testing.assert_allclose(pixels, expected / 255, rtol=1e-6)


def test_16_bit_greys_keep_all_their_bits(tmp_path):
    values = np.array([[0, 1, 128 * 257, 65534, 65535]], np.uint16)
    for name in ("a.png", "a.tif", "a.pgm"):
        path = save(tmp_path / name, Image.fromarray(values))
        pixels = read_image(path, (1, 5), 1).to_unit(None)
        np.testing.assert_allclose(pixels[0, :, 0], values[0] / 65535, rtol=1e-6)


def test_the_transparent_value_of_16_bit_greys_is_white(tmp_path):
    values = np.array([[0, 700, 7000]], np.uint16)
    path = save(tmp_path / "a.png", Image.fromarray(values), transparency=700)
    pixels = read_image(path, (1, 3), 1).to_unit(None)
    np.testing.assert_allclose(pixels[0, :, 0], [0, 1, 7000 / 65535], rtol=1e-6)


def test_values_without_a_range_are_not_guessed_and_not_clipped(tmp_path):
    path = save(tmp_path / "a.tif", Image.fromarray(np.array([[-1.0, 0.5, 4.0]], np.float32)))
    picture = read_image(path, (1, 3), 1)
    np.testing.assert_array_equal(picture.to_unit((0, 2))[0, :, 0], [-0.5, 0.25, 2])
    with pytest.raises(UnreadableImageError, match="32-bit values, for which there is no range"):
        picture.to_unit(None)


def test_one_value_without_a_range_is_black_and_nan_is_refused(tmp_path):
    path = save(tmp_path / "a.tif", Image.fromarray(np.full((2, 2), 7.0, np.float32)))
    assert read_image(path, (2, 2), 1).to_unit((7.0, 7.0)).max() == 0
    path = save(tmp_path / "b.tif", Image.fromarray(np.full((2, 2), np.nan, np.float32)))
    with pytest.raises(UnreadableImageError, match="not finite"):
        read_image(path, (2, 2), 1)


def test_floats_are_resized_without_rounding(tmp_path):
    path = save(tmp_path / "a.tif", Image.fromarray(np.array([[0.25, 0.5]], np.float32)))
    pixels = read_image(path, (1, 1), 1).values
    np.testing.assert_allclose(pixels, 0.375, rtol=1e-6)


def test_one_channel_is_the_luminance(tmp_path):
    path = save(tmp_path / "a.png", Image.new("RGB", (4, 4), (10, 200, 30)))
    # ITU-R 601-2, which Pillow documents for mode L.
    luminance = round(10 * 0.299 + 200 * 0.587 + 30 * 0.114)
    np.testing.assert_allclose(read_image(path, (4, 4), 1).values, luminance, atol=1)


def test_size_is_height_first(tmp_path):
    halves = np.zeros((10, 20), np.uint8)
    halves[:, 10:] = 255
    path = save(tmp_path / "a.png", Image.fromarray(halves))
    pixels = read_image(path, (4, 8), 1).values[..., 0]
    np.testing.assert_array_equal(pixels[:, [0, -1]], [[0, 255]] * 4)


def test_a_photograph_is_turned_as_the_camera_says(tmp_path):
    upper_half_white = np.zeros((4, 4), np.uint8)
    upper_half_white[:2] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # Upside down.
    path = save(tmp_path / "a.png", Image.fromarray(upper_half_white), exif=exif)
    np.testing.assert_array_equal(
        read_image(path, (4, 4), 1).values[..., 0], upper_half_white[::-1]
    )


def test_an_animation_is_its_first_frame(tmp_path):
    frames = [grey(0), grey(255)]
    path = save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert read_image(path, (4, 4), 1).values.max() == 0


# Files that must not be trusted


def truncated():
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    Image.fromarray(noise).save(buffer, "png")
    return buffer.getvalue()[:500]


def bomb(width, height):
    """A PNG that claims a size and has next to nothing in it."""

    def chunk(name, content):
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    )


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
BAD_FILES = {
    "empty": (b"", "cannot identify"),
    "text": (b"hello", "cannot identify"),
    "truncated": (truncated(), "truncated"),
    "large enough for a warning": (bomb(10_000, 10_000), "decompression bomb"),
    "large enough for an error": (bomb(60_000, 60_000), "decompression bomb"),
    "a program in PostScript": (POSTSCRIPT, "cannot identify"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_unreadable_and_the_reason_is_given(tmp_path, kind):
    content, reason = BAD_FILES[kind]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=reason):
        read_image(path, (4, 4), 3)


def test_a_missing_file_and_a_directory_are_unreadable(tmp_path):
    with pytest.raises(UnreadableImageError, match="No such file"):
        read_image(tmp_path / "nothing.png", (4, 4), 3)
    with pytest.raises(UnreadableImageError, match="directory"):
        read_image(tmp_path, (4, 4), 3)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_never_raise_anything_else(tmp_path, seed):
    """Bytes of real files of several formats, changed at random."""
    random = np.random.default_rng(seed)
    formats = ("png", "jpeg", "gif", "tiff", "bmp", "webp", "ppm", "tga")
    buffer = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(
        buffer, formats[seed % len(formats)]
    )
    content = bytearray(buffer.getvalue())
    for position in random.integers(0, len(content), 20):
        content[position] = random.integers(256)
    path = tmp_path / "a"
    path.write_bytes(content)
    with contextlib.suppress(UnreadableImageError):
        assert read_image(path, (4, 4), 3).values.shape == (4, 4, 3)
