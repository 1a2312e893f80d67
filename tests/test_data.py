"""Images to train on: what is read, what is left out and named, and how it is split."""

import contextlib
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from grouped_conv_jax.commands._data import Dataset, load_folder
from grouped_conv_jax.commands._data import load_digits as load_our_digits
from grouped_conv_jax.commands._errors import CommandError
from grouped_conv_jax.commands._images import UnreadableImageError, read_image


def save(path, image, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **kwargs)
    return path


def grey(value, size=(4, 4)):
    return Image.new("L", size, value)


@pytest.fixture
def folder(tmp_path):
    """Two classes of three grey images each."""
    for name, value in (("cats", 10), ("dogs", 200)):
        for i in range(3):
            save(tmp_path / name / f"{i}.png", grey(value + i))
    return tmp_path


# Digits


def test_digits_are_scikit_learns_in_bytes():
    ours, theirs = load_our_digits(), load_digits()
    assert ours.images.shape == (1797, 8, 8, 1)
    assert ours.images.dtype == np.uint8
    np.testing.assert_allclose(ours.images[..., 0] / 255, theirs.images / 16, atol=0.5 / 255)
    np.testing.assert_array_equal(ours.labels, theirs.target)
    assert ours.classes == tuple("0123456789")


# The split


def dataset(*sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    images = np.zeros((len(labels), 3, 3, 1), np.uint8)
    return Dataset(images, labels, tuple(f"class {i}" for i in range(len(sizes))))


def test_split_gives_every_image_to_one_part():
    parts = dataset(40, 3, 7).split(seed=3)
    assert list(parts) == ["training", "validation", "test"]
    np.testing.assert_array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(50))


def test_split_holds_out_15_percent_of_each_class_and_one_image_at_least():
    data = dataset(40, 3, 7)
    parts = data.split(seed=0)
    for name in ("validation", "test"):
        np.testing.assert_array_equal(np.bincount(data.labels[parts[name]]), [6, 1, 1])


def test_split_depends_on_the_seed_alone():
    first, again, other = (dataset(40, 30).split(seed) for seed in (5, 5, 6))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first["test"], other["test"])


def test_split_refuses_a_class_of_two_images():
    with pytest.raises(CommandError, match=r"at least 3 readable images.*'class 1' has 2"):
        dataset(10, 2).split(0)


def test_fingerprint_changes_with_a_pixel_a_label_and_a_name():
    data = dataset(3, 3)
    pixel, label = data.images.copy(), data.labels.copy()
    pixel[4, 1, 2, 0] = 1
    label[0] = 1
    prints = {
        data.fingerprint,
        Dataset(pixel, data.labels, data.classes).fingerprint,
        Dataset(data.images, label, data.classes).fingerprint,
        Dataset(data.images, data.labels, ("a", "b")).fingerprint,
        Dataset(data.images, data.labels, data.classes, (0, 1)).fingerprint,
    }
    assert len(prints) == 5
    assert dataset(3, 3).fingerprint == data.fingerprint


# Folders


def test_folder_gives_classes_in_order_and_images_in_colour(folder):
    data = load_folder(folder, (5, 6))
    assert data.classes == ("cats", "dogs")
    assert data.images.shape == (6, 5, 6, 3)
    np.testing.assert_array_equal(data.labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(data.images[:, 0, 0, 1], [10, 11, 12, 200, 201, 202])
    assert data.left_out == ()


def test_images_in_deeper_folders_belong_to_the_class(folder):
    save(folder / "cats" / "more" / "z.png", grey(99))
    data = load_folder(folder, (4, 4))
    assert data.images[data.labels == 0].max() == 99


def test_what_is_no_image_is_left_out_and_named_with_the_reason(folder):
    (folder / "cats" / "notes.txt").write_text("no image")
    (folder / "dogs" / "empty.png").touch()
    (folder / "loose.png").write_bytes((folder / "cats" / "0.png").read_bytes())
    data = load_folder(folder, (4, 4))
    assert len(data.images) == 6
    loose, notes, empty = data.left_out
    assert "loose.png: in no class" in loose
    assert "notes.txt: cannot identify image file" in notes
    assert "empty.png: cannot identify image file" in empty


def test_hidden_files_and_folders_are_passed_over(folder):
    (folder / ".git").mkdir()
    (folder / "cats" / ".DS_Store").write_bytes(b"x")
    (folder / "cats" / ".thumbs").mkdir()
    (folder / "cats" / ".thumbs" / "a.txt").write_bytes(b"x")
    data = load_folder(folder, (4, 4))
    assert data.classes == ("cats", "dogs")
    assert data.left_out == ()


def test_names_that_are_no_text_are_escaped(folder):
    os.rename(folder / "cats", os.fsencode(folder / "c") + b"\xff")
    (folder / "dogs" / os.fsdecode(b"\xfe.png")).touch()
    data = load_folder(folder, (4, 4))
    assert data.classes == ("c\\xff", "dogs")
    assert "\\xfe.png: cannot identify" in data.left_out[0]


def test_a_folder_without_two_classes_is_refused(tmp_path):
    with pytest.raises(CommandError, match=r"at least two subfolders.*got 0"):
        load_folder(tmp_path, (4, 4))
    save(tmp_path / "cats" / "a.png", grey(1))
    with pytest.raises(CommandError, match=r"at least two subfolders.*got 1"):
        load_folder(tmp_path, (4, 4))
    with pytest.raises(CommandError, match=r"must be a folder.*nowhere"):
        load_folder(tmp_path / "nowhere", (4, 4))
    with pytest.raises(CommandError, match=r"must be a folder.*a\.png"):
        load_folder(tmp_path / "cats" / "a.png", (4, 4))


def test_a_class_without_readable_images_is_refused_with_the_reasons(folder):
    (folder / "birds").mkdir()
    with pytest.raises(CommandError, match=r"needs readable images.*birds has none"):
        load_folder(folder, (4, 4))
    (folder / "birds" / "a.png").write_text("no image")
    with pytest.raises(CommandError, match=r"birds has none\n.*a\.png: cannot identify"):
        load_folder(folder, (4, 4))


# Single images, of every mode


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


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_without_a_range_keep_their_proportions_in_the_whole_data_set(tmp_path, dtype):
    """From the smallest of all images to the largest, and never image by image."""
    random = np.random.default_rng(0)
    stored = random.integers(-50, 1000, (6, 4, 5)).astype(dtype)
    stored[:3] += dtype(9000)
    for i, image in enumerate(stored):
        save(tmp_path / ("bright" if i < 3 else "dark") / f"{i}.tif", Image.fromarray(image))
    data = load_folder(tmp_path, (4, 5))
    low, high = float(stored.min()), float(stored.max())
    assert data.value_range == (low, high)
    assert data.images.dtype == np.float32
    expected = np.repeat((stored[..., np.newaxis] - low) / (high - low), 3, axis=-1)
    np.testing.assert_allclose(data.images, expected, rtol=1e-6, atol=1e-7)
    assert data.images[3:].max() < 0.2 < 0.8 < data.images[:3].min()


def test_kinds_of_images_can_be_mixed(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / name / "8.png", grey(51))
        save(tmp_path / name / "16.png", Image.fromarray(np.full((4, 4), 13107, np.uint16)))
        save(tmp_path / name / "32.tif", Image.fromarray(np.full((4, 4), ord(name) - 96.0, "f")))
    data = load_folder(tmp_path, (4, 4))
    assert data.value_range == (1, 2)
    # In the order of the names: of 16, 32 and 8 bits.
    expected = [0.2, 0, 0.2, 0.2, 1, 0.2]
    np.testing.assert_allclose(data.images.mean((1, 2, 3)), expected, rtol=1e-6)


def test_8_bits_stay_bytes_and_have_no_range(folder):
    data = load_folder(folder, (4, 4))
    assert data.images.dtype == np.uint8
    assert data.value_range is None


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
