"""A small folder of images and a run on it that several test files look at."""

import contextlib
import functools
import io
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from grouped_conv_jax.commands import _learner, main
from grouped_conv_jax.commands._devices import Devices

EPOCHS = 4
# 28 images to train on make four batches, the last one of four images.
OPTIONS = ["--image-size", "8x9", "--batch-size", "8", "--epochs", str(EPOCHS), "--seed", "7"]


def draw_images(folder, per_class=20):
    """Two classes, bright on the left and bright on the right, with noise."""
    random = np.random.default_rng(0)
    for name, bright in (("left", slice(0, 6)), ("right", slice(6, 12))):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = random.integers(0, 120, (10, 12, 3))
            pixels[:, bright] += 60
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture
def one_device(monkeypatch):
    """Runs in this process train on one device, as those in other processes do."""
    _use_one_device(monkeypatch)


def _use_one_device(monkeypatch):
    monkeypatch.setattr(_learner, "Devices", lambda: Devices(jax.devices()[:1]))


@functools.cache
def _finished():
    base = Path(tempfile.mkdtemp())
    images, out = draw_images(base / "images"), base / "run"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.MonkeyPatch.context() as monkeypatch:
        _use_one_device(monkeypatch)
        assert main(["train", "--data", str(images), "--out", str(out), *OPTIONS]) == 0
    (base / "printed.txt").write_text(printed.getvalue())
    return base


@pytest.fixture(scope="session")
def finished():
    """A directory with ``images``, the ``run`` on them and what that ``printed.txt``.

    It is not to be changed.
    """
    base = _finished()
    yield base
    shutil.rmtree(base, ignore_errors=True)
    _finished.cache_clear()
