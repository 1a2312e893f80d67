"""Writes weights and bias to MATLAB files."""

import os
import re
import tempfile
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from grouped_conv_jax.convert import _mat_5
from grouped_conv_jax.convert._mat_files import check_names_differ, check_path


def save_mat(
    path: str | os.PathLike[str],
    weights: npt.NDArray[Any] | jax.Array,
    bias: npt.NDArray[Any] | jax.Array,
    *,
    weights_name: str = "Weights",
    bias_name: str = "Bias",
) -> None:
    """Writes weights and bias to a MATLAB file, for MATLAB's ``load`` and `load_mat`.

    The file has version 6, and is written whole or not at all. Like MATLAB, this drops trailing
    axes of size one.

    Args:
        path: the file; an existing file is replaced.
        weights: ``(h, w, channels_per_group, filters_per_group, groups)``.
        bias: ``(1, 1, filters_per_group, groups)``.
        weights_name: the weights' name in the file; dots create structs, as in
            ``"layer.Weights"``.
        bias_name: the bias's name in the file, likewise.

    Raises:
        TypeError: ``path`` is not a path, or an array is not of float32, float64 or integers.
        ValueError: the arrays are not those of one layer or too large for such a file, or a name is
            not valid in MATLAB.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> from grouped_conv_jax.convert import load_mat, save_mat
        >>> weights, bias = np.ones((3, 3, 2, 4, 1)), np.zeros((1, 1, 4, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "layer.mat")
        ...     save_mat(path, weights, bias)
        ...     loaded, _ = load_mat(path, 3, 2, 4, 1)
        >>> bool((loaded == weights).all())
        True
    """
    check_path(path)
    check_names_differ(weights_name, bias_name)
    weights, bias = _savable("weights", weights, 5), _savable("bias", bias, 4)
    if bias.shape != (1, 1, *weights.shape[3:]):
        raise ValueError(
            f"bias must have shape (1, 1, filters_per_group, groups) = {(1, 1, *weights.shape[3:])}"
            f" for weights of shape {weights.shape}, got {bias.shape}"
        )
    variables: dict[str, Any] = {}
    for argument, name, array in (
        ("weights_name", weights_name, weights),
        ("bias_name", bias_name, bias),
    ):
        _place(argument, name, array, variables)
    _write_atomically(path, _mat_5.serialize(variables))


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
    """Adds an array under a name, in which dots create structs."""
    parts = name.split(".") if isinstance(name, str) else [""]
    if not all(re.fullmatch("[A-Za-z][A-Za-z0-9_]{0,62}", part) for part in parts):
        raise ValueError(f"{argument} must be a valid name in MATLAB, got {name!r}")
    *structs, last = parts
    for part in structs:
        variables = variables.setdefault(part, {})
        if not isinstance(variables, dict):
            raise ValueError(f"{argument} must not lead into an array, got {name!r}")
    if last in variables:
        raise ValueError(f"{argument} must not be a struct's name, got {name!r}")
    variables[last] = array


def _write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
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
