"""Weights and bias from MATLAB's files, of which nothing but numbers of a known size is read."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import jax
import numpy as np
import numpy.typing as npt

from grouped_conv_jax import _checks
from grouped_conv_jax.convert import _mat_5, _mat_73

Variable: TypeAlias = _mat_5.Array | _mat_73.Item


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
        weights_name: the weights' name in the file; dots lead into structs, as in
            ``"layer.Weights"`` after ``layer = struct(layer);``.
        bias_name: the bias's name in the file, likewise.

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


def save_mat(
    path: str | os.PathLike[str],
    weights: npt.NDArray[Any] | jax.Array,
    bias: npt.NDArray[Any] | jax.Array,
    *,
    weights_name: str = "Weights",
    bias_name: str = "Bias",
) -> None:
    """Writes weights and bias to a MATLAB file, which MATLAB's ``load`` and `load_mat` read.

    The file is of version 6, and written whole or not at all. Trailing ones are dropped, as MATLAB
    does.

    Args:
        path: the file; one that is there already is replaced.
        weights: ``(h, w, channels_per_group, filters_per_group, groups)``.
        bias: ``(1, 1, filters_per_group, groups)``.
        weights_name: the weights' name in the file; dots make structs, as in ``"layer.Weights"``.
        bias_name: the bias's name in the file, likewise.

    Raises:
        TypeError: ``path`` is no path, or an array none of float32, float64 or integers.
        ValueError: the arrays are not those of one layer, or larger than such a file can hold; or a
            name is none in MATLAB.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> weights, bias = np.ones((3, 3, 2, 4, 1)), np.zeros((1, 1, 4, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "layer.mat")
        ...     save_mat(path, weights, bias)
        ...     loaded, _ = load_mat(path, 3, 2, 4, 1)
        >>> bool((loaded == weights).all())
        True
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a string or a path, got {path!r}")
    if weights_name == bias_name:
        raise ValueError(f"weights_name and bias_name must differ, got {weights_name!r} for both")
    weights, bias = _savable("weights", weights, 5), _savable("bias", bias, 4)
    if bias.shape != (1, 1, *weights.shape[3:]):
        raise ValueError(
            f"bias must have shape (1, 1, filters_per_group, groups) = {(1, 1, *weights.shape[3:])}"
            f", as weights of shape {weights.shape} have them, got {bias.shape}"
        )
    variables: dict[str, Any] = {}
    for argument, name, array in (
        ("weights_name", weights_name, weights),
        ("bias_name", bias_name, bias),
    ):
        _place(argument, name, array, variables)
    _write_whole(path, _mat_5.written(variables))


def _savable(name: str, array: Any, axes: int) -> npt.NDArray[Any]:
    if not isinstance(array, np.ndarray | jax.Array) or array.dtype not in _mat_5.DTYPES.values():
        kind = getattr(array, "dtype", type(array).__name__)
        raise TypeError(f"{name} must be an array of float32, float64 or integers, got {kind}")
    if array.ndim != axes or not array.size:
        raise ValueError(f"{name} must have {axes} axes, none of them empty, got {array.shape}")
    if array.nbytes >= 2**31 - 1024:
        raise ValueError(f"{name} must have less than 2 GiB, got {array.nbytes} bytes")
    return np.asarray(array)


def _place(argument: str, name: Any, array: Any, variables: dict[str, Any]) -> None:
    """Puts an array under a name, in which dots make structs."""
    parts = name.split(".") if isinstance(name, str) else [""]
    if not all(re.fullmatch("[A-Za-z][A-Za-z0-9_]{0,62}", part) for part in parts):
        raise ValueError(f"{argument} must be a name in MATLAB, got {name!r}")
    *structs, last = parts
    for part in structs:
        variables = variables.setdefault(part, {})
        if not isinstance(variables, dict):
            raise ValueError(f"{argument} must not lead into an array, got {name!r}")
    if last in variables:
        raise ValueError(f"{argument} must not be a struct's name, got {name!r}")
    variables[last] = array


def _write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    folder, name = os.path.split(os.path.abspath(path))
    handle, unfinished = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(unfinished, 0o666 & ~_umask())
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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


def has_size(size: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether ``size`` is ``expected``, its trailing ones perhaps dropped."""
    return size + (1,) * (len(expected) - len(size)) == expected


def check_size(name: str, size: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raises unless ``size`` is ``expected``, its trailing ones perhaps dropped."""
    if not has_size(size, expected):
        raise ValueError(
            f"{name} must have size {expected}, trailing ones perhaps dropped, got {size}"
        )


def _read(
    path: str | os.PathLike[str], sizes: Mapping[str, tuple[int, ...]]
) -> dict[str, npt.NDArray[Any]]:
    """Reads the arrays named in ``sizes``; their sizes may lack trailing ones.

    Sizes are compared before values are read, so that a small file cannot claim a large memory.
    """
    arrays = {}
    with opened(path) as variables:
        found = {name: _find(path, variables, name) for name in sizes}
        for name, expected in sizes.items():
            _check_numbers(
                f"{name!r} in path={os.fspath(path)!r}",
                found[name].matlab_class,
                found[name].size,
                expected,
            )
            with reading(path):
                arrays[name] = found[name].values()
    return arrays


def _find(path: str | os.PathLike[str], variables: Mapping[str, Variable], name: str) -> Variable:
    """What stands under a name, in which dots lead into structs."""
    here, held_by = variables, f"path={os.fspath(path)!r}"
    *structs, last = name.split(".")
    for part in structs:
        check_name(held_by, part, here)
        held_by = f"{part!r} in {held_by}"
        if (here[part].matlab_class, here[part].size) != ("struct", (1, 1)):
            raise ValueError(
                f"{held_by} must be a struct of one element to have fields, got MATLAB class "
                f"{here[part].matlab_class} of size {here[part].size}"
            )
        with reading(path):
            (here,) = here[part].elements()
    check_name(held_by, last, here)
    return here[last]


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Mapping[str, Variable]]:
    """Opens a MATLAB file, and gives what it holds by the names."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a string or a path, got {path!r}")
    path = os.fspath(path)
    with open(path, "rb") as file:
        header = file.read(_mat_5.HEADER_BYTES)
    # The header ends with the version and the letters MI, both in the writer's byte order.
    ending = header[_mat_5.HEADER_BYTES - 4 :]
    if ending in (b"\x00\x01IM", b"\x01\x00MI"):
        with open(path, "rb") as file:
            data = file.read()
        with reading(path):
            variables = dict(_mat_5.arrays(data))
        yield variables
    elif ending == b"\x00\x02IM":
        with reading(path):
            file = _mat_73.open_file(path)
        with file:
            with reading(path):
                variables_73 = _mat_73.variables(file)
            yield variables_73
    else:
        raise ValueError(
            f"path={path!r} must be a MATLAB file of version 5, 6, 7 or 7.3 (in Octave save -v7), "
            "but the header of one is missing or cut short"
        )


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Makes of whatever a reader stumbles over a ``ValueError`` that names the file.

    Over a damaged file h5py and zlib raise exceptions of many kinds, and document none of them.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"path={os.fspath(path)!r} is truncated or damaged: {error}") from error


def check_name(held_by: str, name: str, found: Mapping[str, Variable]) -> None:
    """Raises unless there is something under a name."""
    if name not in found:
        there = ", ".join(repr(other) for other in sorted(found) if other) or "nothing"
        raise ValueError(f"{held_by} lacks {name!r}; it holds {there}")


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
