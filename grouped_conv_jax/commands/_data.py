"""Images to train on, and their split."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from grouped_conv_jax.commands._errors import CommandError
from grouped_conv_jax.commands._images import UnreadableImageError, printable, read_image

SPLITS = ("training", "validation", "test")
# Of each class; the rest is for training.
_HELD_OUT = 0.15


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Labelled images.

    Attributes:
        images: ``(N, H, W, C)`` of dtype uint8.
        labels: ``(N,)`` of dtype int32, indices into ``classes``.
        classes: the classes' names.
        left_out: files that are not among the images, each with the reason.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all images and labels."""
        digest = hashlib.sha256(repr((self.images.shape, self.classes)).encode())
        digest.update(self.images.tobytes())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def split(self, seed: int) -> dict[str, np.ndarray]:
        """Draws 15 % of each class for validation and 15 % for test, one image at least.

        Returns:
            Indices of images by the names in ``SPLITS``.

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
    """Loads scikit-learn's 1,797 images of handwritten digits, 8 x 8 pixels of 17 greys."""
    from sklearn import datasets

    digits = datasets.load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int32)
    return Dataset(images[..., np.newaxis], labels, tuple(map(str, digits.target_names)))


def load_folder(folder: Path, image_size: tuple[int, int]) -> Dataset:
    """Loads a folder of images in colour, one subfolder a class.

    Files that are no readable images are left out and named, as are those in no subfolder. Names
    that begin with a dot are hidden and passed over.

    Raises:
        CommandError: there is no such folder, or not two classes at least, or one without images.
    """
    if not folder.is_dir():
        raise CommandError(f"--data must be a folder with one subfolder a class, got {folder}")
    entries = _visible(folder.iterdir())
    classes = [entry for entry in entries if entry.is_dir()]
    if len(classes) < 2:
        raise CommandError(
            f"--data must have at least two subfolders, one a class, got {len(classes)} in {folder}"
        )
    left_out = [f"{printable(path)}: in no class's folder" for path in entries if path.is_file()]
    images: list[np.ndarray] = []
    labels: list[int] = []
    for label, subfolder in enumerate(classes):
        for path in _visible(subfolder.rglob("*"), subfolder):
            if not path.is_file():
                continue
            try:
                images.append(read_image(path, image_size, channels=3))
                labels.append(label)
            except UnreadableImageError as error:
                left_out.append(f"{printable(path)}: {error}")
        if label not in labels[-1:]:
            raise CommandError(
                f"each class needs readable images; {printable(subfolder)} has none"
                + "".join(f"\n  {reason}" for reason in left_out[:10])
            )
    names = tuple(printable(Path(subfolder.name)) for subfolder in classes)
    return Dataset(np.stack(images), np.asarray(labels, np.int32), names, tuple(left_out))


def _visible(paths: Iterable[Path], below: Path | None = None) -> list[Path]:
    """The paths in order, without those that are hidden, or in a hidden folder, below a folder."""
    parts = (lambda p: p.relative_to(below).parts) if below else (lambda p: p.parts[-1:])
    return sorted(p for p in paths if not any(part.startswith(".") for part in parts(p)))
