"""Weights and bias from MATLAB's files, of which nothing but numbers of a known size is read."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt

from grouped_conv_jax import _checks, _mat_5


def load_mat(
    path: str | os.PathLike[str],
    filter_size: int | tuple[int, int],
    num_channels_per_group: int,
    num_filters_per_group: int,
    num_groups: int,
    *,
    weights_name: str = "Weights",
    bias_name: str = "Bias",
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Reads weights and bias from a MATLAB file of version 5, 6, 7 or 7.3.

    MATLAB's ``save`` writes them after ``Weights = layer.Weights; Bias = layer.Bias;``, Octave's
    ``save -v7`` likewise. Version 7.3 needs h5py: ``pip install "grouped_conv_jax[mat]"``. Only
    numbers are read: nothing in the file is unpickled or run.

    Args:
        path: the file.
        filter_size: ``h`` and ``w``, or one integer for both.
        num_channels_per_group: ``channels_per_group``.
        num_filters_per_group: ``filters_per_group``.
        num_groups: ``groups``; the number of input channels where the layer is channel-wise.
        weights_name: the weights' name in the file.
        bias_name: the bias's name in the file.

    Returns:
        Weights ``(h, w, channels_per_group, filters_per_group, groups)`` and bias
        ``(1, 1, filters_per_group, groups)``, their trailing ones restored. MATLAB's ``single`` is
        float32 and its ``double`` float64.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the file is of version 7.3 and h5py is not installed.
        TypeError: ``path`` is no path, or a size no integer.
        ValueError: the file is no such file, is truncated or damaged, lacks a name, or has
            something else than numbers of the right size under it.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np, scipy.io
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "layer.mat")
        ...     saved = {"Weights": np.ones((3, 3, 2, 4)), "Bias": np.zeros((1, 1, 4))}
        ...     scipy.io.savemat(path, saved)
        ...     weights, bias = load_mat(path, 3, 2, 4, 1)
        >>> weights.shape, bias.shape
        ((3, 3, 2, 4, 1), (1, 1, 4, 1))
    """
    weights_shape, bias_shape = shapes(
        filter_size, num_channels_per_group, num_filters_per_group, num_groups
    )
    if weights_name == bias_name:
        raise ValueError(f"weights_name and bias_name must differ, got {weights_name!r} for both")
    arrays = _read(path, {weights_name: weights_shape, bias_name: bias_shape})
    return arrays[weights_name].reshape(weights_shape), arrays[bias_name].reshape(bias_shape)


def shapes(
    filter_size: int | tuple[int, int],
    num_channels_per_group: int,
    num_filters_per_group: int,
    num_groups: int,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of weights and bias."""
    channels = _checks.integer("num_channels_per_group", num_channels_per_group, 1)
    filters = _checks.integer("num_filters_per_group", num_filters_per_group, 1)
    groups = _checks.integer("num_groups", num_groups, 1)
    h, w = _checks.per_axis("filter_size", filter_size, 2)
    return (h, w, channels, filters, groups), (1, 1, filters, groups)


def check_size(name: str, size: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raises unless ``size`` is ``expected``, its trailing ones perhaps dropped."""
    if size + (1,) * (len(expected) - len(size)) != expected:
        raise ValueError(
            f"{name} must have size {expected}, trailing ones perhaps dropped, got {size}"
        )


def _read(
    path: str | os.PathLike[str], sizes: Mapping[str, tuple[int, ...]]
) -> dict[str, npt.NDArray[Any]]:
    """Reads the arrays named in ``sizes``; their sizes may lack trailing ones.

    Sizes are compared before values are read, so that a small file cannot claim a large memory.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a string or a path, got {path!r}")
    path = os.fspath(path)
    with open(path, "rb") as file:
        header = file.read(_mat_5.HEADER_BYTES)
    # The header ends with the version and the letters MI, both in the writer's byte order.
    readers = {b"\x00\x01IM": _read_5, b"\x01\x00MI": _read_5, b"\x00\x02IM": _read_73}
    reader = readers.get(header[_mat_5.HEADER_BYTES - 4 :])
    if reader is None:
        raise ValueError(
            f"path={path!r} must be a MATLAB file of version 5, 6, 7 or 7.3 (in Octave save -v7), "
            "but the header of one is missing or cut short"
        )
    return reader(path, sizes)


def _read_5(path: str, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, npt.NDArray[Any]]:
    """Reads a file of version 5, 6 or 7."""
    with open(path, "rb") as file:
        data = file.read()
    with _reading(path):
        found = dict(_mat_5.arrays(data))
    _check_names(path, sizes, found)
    arrays = {}
    for name, expected in sizes.items():
        array = found[name]
        _check_numbers(f"{name!r} in path={path!r}", array.matlab_class, array.size, expected)
        with _reading(path):
            arrays[name] = _mat_5.values(array)
    return arrays


def _read_73(path: str, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, npt.NDArray[Any]]:
    """Reads a file of version 7.3, which is HDF5 with a MATLAB header."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            f"path={path!r} is a MATLAB file of version 7.3, which needs h5py: "
            'pip install "grouped_conv_jax[mat]"'
        ) from error

    with _reading(path):
        file = h5py.File(path, "r")
    arrays = {}
    with file:
        with _reading(path):
            names = [name for name in file if not name.startswith("#")]
        _check_names(path, sizes, names)
        for name, expected in sizes.items():
            with _reading(path):
                item = file[name]
                matlab_class, size = _head_73(item)
            _check_numbers(f"{name!r} in path={path!r}", matlab_class, size, expected)
            with _reading(path):
                arrays[name] = item[()].T.astype(_mat_5.DTYPES[matlab_class], order="C")
    return arrays


def _head_73(item: Any) -> tuple[str, tuple[int, ...]]:
    """The MATLAB class and the size of a dataset or a group."""
    if "MATLAB_sparse" in item.attrs:
        return "sparse", ()
    if not hasattr(item, "shape"):
        return "struct", ()
    matlab_class = item.attrs["MATLAB_class"].decode()
    if item.attrs.get("MATLAB_empty", 0):  # What is stored then are the dimensions.
        return matlab_class, (0,)
    stored = item.dtype.newbyteorder("=")
    if stored.names:
        matlab_class = f"complex {matlab_class}"
    elif _mat_5.DTYPES.get(matlab_class, stored) != stored:
        raise ValueError(f"class {matlab_class} and stored type {stored} disagree")
    return matlab_class, item.shape[::-1]  # HDF5 lists the axes in reverse.


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Makes of whatever a reader stumbles over a ``ValueError`` that names the file.

    Over a damaged file h5py and zlib raise exceptions of many kinds, and document none of them.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(f"path={path!r} is truncated or damaged: {error}") from error


def _check_names(path: str, wanted: Iterable[str], found: Iterable[str]) -> None:
    for name in wanted:
        if name not in found:
            there = ", ".join(repr(other) for other in sorted(found) if other) or "nothing"
            raise ValueError(f"path={path!r} lacks {name!r}; it holds {there}")


def _check_numbers(
    where: str, matlab_class: str, size: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    """Raises unless an array is of real numbers, not empty, and of the expected size."""
    if matlab_class not in _mat_5.DTYPES:
        raise ValueError(
            f"{where} must be a full array of real numbers, got MATLAB class {matlab_class}"
        )
    if 0 in size:
        raise ValueError(f"{where} must hold numbers, got []: the layer was not initialized")
    check_size(where, size, expected)
