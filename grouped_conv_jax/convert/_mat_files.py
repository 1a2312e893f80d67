"""Reads weights and bias from MATLAB files: numbers only, and only if their size is expected."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

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

    MATLAB's ``save`` writes such a file after ``Weights = layer.Weights; Bias = layer.Bias;``, and
    so does Octave's ``save -v7``. Version 7.3 needs h5py: ``pip install "grouped_conv_jax[mat]"``.
    Only numbers are read; nothing in the file is unpickled or executed.

    Args:
        path: the file.
        filter_size: ``h`` and ``w``, or one integer for both.
        num_channels_per_group: ``channels_per_group``.
        num_filters_per_group: ``filters_per_group``.
        num_groups: ``groups``; the number of input channels if the layer is channel-wise.
        weights_name: the weights' name in the file; dots lead into structs, as in
            ``"layer.Weights"`` after ``layer = struct(layer);``.
        bias_name: the bias's name in the file, likewise.

    Returns:
        Weights ``(h, w, channels_per_group, filters_per_group, groups)`` and bias
        ``(1, 1, filters_per_group, groups)``, with trailing axes of size one restored. MATLAB's
        ``single`` becomes float32 and its ``double`` float64.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the file is of version 7.3 and h5py is not installed.
        TypeError: ``path`` is not a path, or a size is not an integer.
        ValueError: the file is not a MATLAB file, is truncated or damaged, lacks a name, or holds
            something other than numbers of the expected size under it.

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
    check_names_differ(weights_name, bias_name)
    arrays = _read(path, {weights_name: weights_shape, bias_name: bias_shape})
    return arrays[weights_name].reshape(weights_shape), arrays[bias_name].reshape(bias_shape)


def check_path(path: Any) -> None:
    """Raises ``TypeError`` unless ``path`` is a string or a path."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a string or a path, got {path!r}")


def check_names_differ(weights_name: str, bias_name: str) -> None:
    """Raises ``ValueError`` if both arrays have the same name."""
    if weights_name == bias_name:
        raise ValueError(f"weights_name and bias_name must differ, got {weights_name!r} for both")


def shapes(
    filter_size: int | tuple[int, int],
    num_channels_per_group: int,
    num_filters_per_group: int,
    num_groups: int,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the shapes of weights and bias."""
    channels = _checks.integer("num_channels_per_group", num_channels_per_group, 1)
    filters = _checks.integer("num_filters_per_group", num_filters_per_group, 1)
    groups = _checks.integer("num_groups", num_groups, 1)
    h, w = _checks.per_axis("filter_size", filter_size, 2)
    return (h, w, channels, filters, groups), (1, 1, filters, groups)


def has_size(size: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether ``size`` equals ``expected``, possibly without its trailing ones."""
    return size + (1,) * (len(expected) - len(size)) == expected


def check_size(name: str, size: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raises ``ValueError`` unless the size satisfies :func:`has_size`."""
    if not has_size(size, expected):
        raise ValueError(f"{name} must have size {expected}, trailing ones optional, got {size}")


def _read(
    path: str | os.PathLike[str], sizes: Mapping[str, tuple[int, ...]]
) -> dict[str, npt.NDArray[Any]]:
    """Reads the arrays named in ``sizes``, whose sizes may lack trailing ones.

    The sizes are checked before any values are read, so that a small file cannot claim much memory.
    """
    arrays = {}
    with opened(path) as variables:
        selected = {name: _find(path, variables, name) for name in sizes}
        for name, expected in sizes.items():
            _check_numbers(
                f"{name!r} in path={os.fspath(path)!r}",
                selected[name].matlab_class,
                selected[name].size,
                expected,
            )
            with reading(path):
                arrays[name] = selected[name].values()
    return arrays


def _find(path: str | os.PathLike[str], variables: Mapping[str, Variable], name: str) -> Variable:
    """Returns the variable of a name, in which dots lead into structs."""
    fields, held_by = variables, f"path={os.fspath(path)!r}"
    *structs, last = name.split(".")
    for part in structs:
        check_name(held_by, part, fields)
        held_by = f"{part!r} in {held_by}"
        struct = fields[part]
        if (struct.matlab_class, struct.size) != ("struct", (1, 1)):
            raise ValueError(
                f"{held_by} must be a struct of one element to have fields, got MATLAB class "
                f"{struct.matlab_class} of size {struct.size}"
            )
        with reading(path):
            (fields,) = struct.elements()
    check_name(held_by, last, fields)
    return fields[last]


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Mapping[str, Variable]]:
    """Opens a MATLAB file and yields its variables by their names."""
    check_path(path)
    path = os.fspath(path)
    with open(path, "rb") as file:
        header = file.read(_mat_5.HEADER_BYTES)
    # The header ends with the version and the letters MI, both in the writer's byte order.
    ending = header[_mat_5.HEADER_BYTES - 4 :]
    if ending in (b"\x00\x01IM", b"\x01\x00MI"):
        with open(path, "rb") as file:
            data = file.read()
        with reading(path):
            variables = dict(_mat_5.named_arrays(data))
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
    """Converts every exception but ``ImportError`` into a ``ValueError`` that names the file.

    On a damaged file, h5py and zlib raise exceptions of many undocumented kinds.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"path={os.fspath(path)!r} is truncated or damaged: {error}") from error


def check_name(held_by: str, name: str, variables: Mapping[str, Variable]) -> None:
    """Raises ``ValueError`` unless there is a variable of that name."""
    if name not in variables:
        names = ", ".join(repr(other) for other in sorted(variables) if other) or "nothing"
        raise ValueError(f"{held_by} lacks {name!r}; it holds {names}")


def _check_numbers(
    where: str, matlab_class: str, size: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    """Raises ``ValueError`` unless an array holds real numbers and has the expected size."""
    if matlab_class not in _mat_5.DTYPES:
        raise ValueError(
            f"{where} must be a full array of real numbers, got MATLAB class {matlab_class}"
        )
    if 0 in size:
        raise ValueError(f"{where} must hold numbers, got []: the layer was not initialized")
    check_size(where, size, expected)
