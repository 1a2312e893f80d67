"""Data sets of images, and their split."""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from grouped_conv_jax.commands._errors import CommandError, require
from grouped_conv_jax.commands._images import (
    PIXEL_MAXIMUM,
    Picture,
    UnreadableImageError,
    ValueRange,
    printable,
    read_image,
    visible,
)

SPLITS = ("training", "validation", "test")
# The fraction of each class for validation, and for test.
_HELD_OUT = 0.15


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Labelled images.

    Attributes:
        images: ``(N, H, W, C)``, uint8 if all files have eight bits per channel, otherwise float32
            in [0, 1].
        labels: ``(N,)``, int32 indices into ``classes``.
        classes: names of the classes.
        value_range: the values mapped to 0 and 1 in files whose format defines no range; ``None``
            if there are no such files.
        left_out: the skipped files, each with the reason.
        paths: files of the images; empty for the digits.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    value_range: ValueRange | None = None
    left_out: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of all images and labels."""
        described = self.images.shape, self.classes, self.value_range
        digest = hashlib.sha256(repr(described).encode())
        digest.update(self.images.tobytes())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def as_file(self, index: int) -> tuple[str, bytes]:
        """Returns suffix and content of an image's file; a digit becomes a PNG."""
        if self.paths:
            return self.paths[index].suffix, self.paths[index].read_bytes()
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self.images[index, ..., 0]).save(buffer, "png")
        return ".png", buffer.getvalue()

    def split(self, seed: int) -> dict[str, np.ndarray]:
        """Splits off 15 % of each class for validation and 15 % for test, at least one image each.

        Returns:
            Image indices for each name in ``SPLITS``.

        Raises:
            CommandError: a class has fewer than three images.
        """
        generator = np.random.default_rng(seed)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in SPLITS}
        for label, name in enumerate(self.classes):
            members = generator.permutation(np.flatnonzero(self.labels == label))
            if len(members) < len(SPLITS):
                raise CommandError(
                    f"each class needs at least {len(SPLITS)} readable images, for training, "
                    f"validation and test; {name!r} has {len(members)}"
                )
            held_out = max(1, round(_HELD_OUT * len(members)))
            cuts = np.split(members, [len(members) - 2 * held_out, len(members) - held_out])
            for part, indices in zip(parts.values(), cuts, strict=True):
                part.append(indices)
        return {name: np.concatenate(indices) for name, indices in parts.items()}


def load_digits() -> Dataset:
    """Loads scikit-learn's 1,797 handwritten digits, 8 x 8 pixels with 17 grey levels."""
    require("sklearn.datasets")
    from sklearn import datasets

    digits = datasets.load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int32)
    return Dataset(images[..., np.newaxis], labels, tuple(map(str, digits.target_names)))


def load_folder(folder: Path, image_size: tuple[int, int]) -> Dataset:
    """Loads a folder of images in colour, with one subfolder per class.

    Skips and reports unreadable files and files outside the subfolders. Ignores hidden files, whose
    names begin with a dot.

    Raises:
        CommandError: the folder does not exist, has fewer than two subfolders, or has a subfolder
            without readable images.
    """
    if not folder.is_dir():
        raise CommandError(f"--data must be a folder with one subfolder per class, got {folder}")
    entries = visible(folder.iterdir())
    classes = [entry for entry in entries if entry.is_dir()]
    if len(classes) < 2:
        raise CommandError(
            "--data must have at least two subfolders, one per class, "
            f"got {len(classes)} in {folder}"
        )
    left_out = [f"{printable(path)}: in no class folder" for path in entries if path.is_file()]
    pictures: list[Picture] = []
    labels: list[int] = []
    paths: list[Path] = []
    for label, subfolder in enumerate(classes):
        for path in visible(subfolder.rglob("*"), subfolder):
            if not path.is_file():
                continue
            try:
                pictures.append(read_image(path, image_size, channels=3))
                labels.append(label)
                paths.append(path)
            except UnreadableImageError as error:
                left_out.append(f"{printable(path)}: {error}")
        if label not in labels[-1:]:
            raise CommandError(
                f"each class needs readable images; {printable(subfolder)} has none"
                + "".join(f"\n  {reason}" for reason in left_out[:10])
            )
    names = tuple(printable(Path(subfolder.name)) for subfolder in classes)
    images, value_range = _stack(pictures)
    return Dataset(
        images, np.asarray(labels, np.int32), names, value_range, tuple(left_out), tuple(paths)
    )


def _stack(pictures: Sequence[Picture]) -> tuple[np.ndarray, ValueRange | None]:
    """Stacks images on a common scale; returns them and the range of those without a maximum."""
    if all(picture.maximum == PIXEL_MAXIMUM for picture in pictures):
        return np.stack([picture.values for picture in pictures]), None
    boundless = [picture.values for picture in pictures if picture.maximum is None]
    value_range = None
    if boundless:
        value_range = min(float(v.min()) for v in boundless), max(float(v.max()) for v in boundless)
    return np.stack([picture.to_unit(value_range) for picture in pictures]), value_range
