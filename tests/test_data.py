"""Images to train on: what is read, what is left out and named, and how it is split."""

import os

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from grouped_conv_jax.commands._data import Dataset, load_folder
from grouped_conv_jax.commands._data import load_digits as load_our_digits
from grouped_conv_jax.commands._errors import CommandError


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
