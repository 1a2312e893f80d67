"""Reads MATLAB files of version 7.3, which are HDF5 files with a MATLAB header."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from grouped_conv_jax.convert import _mat_5


class Item(NamedTuple):
    """A dataset or a group whose values have not been read yet."""

    matlab_class: str
    size: tuple[int, ...]
    item: Any

    def values(self) -> npt.NDArray[Any]:
        """The values of an array of a numeric class."""
        return self.item[()].T.astype(_mat_5.DTYPES[self.matlab_class], order="C")

    def text(self) -> str:
        """The characters of an array of class char."""
        return self.item[()].T.astype(np.uint16).tobytes(order="F").decode("utf-16")

    def elements(self) -> list[dict[str, "Item"]]:
        """The fields of each element of a struct array."""
        if self.size == (1, 1):
            return [{name: _item(field) for name, field in self.item.items()}]
        references = {name: field[()].T.ravel(order="F") for name, field in self.item.items()}
        return [
            {name: _item(self.item.file[of_field[i]]) for name, of_field in references.items()}
            for i in range(int(np.prod(self.size)))
        ]


def open_file(path: str) -> Any:
    """Opens a file, which is a context manager that closes it."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            f"path={path!r} is a MATLAB file of version 7.3, which needs h5py: "
            'pip install "grouped_conv_jax[mat]"'
        ) from error
    return h5py.File(path, "r")


def variables(file: Any) -> dict[str, Item]:
    """Returns the variables of a file by their names."""
    return {name: _item(item) for name, item in file.items() if not name.startswith("#")}


def _item(item: Any) -> Item:
    return Item(*_head(item), item)


def _head(item: Any) -> tuple[str, tuple[int, ...]]:
    """Returns the MATLAB class and the size of a dataset or a group."""
    if "MATLAB_sparse" in item.attrs:
        return "sparse", ()
    if not hasattr(item, "shape"):
        # In a struct array with several elements, each field is an array of references.
        arrays = [f for f in item.values() if hasattr(f, "shape") and "MATLAB_class" not in f.attrs]
        return "struct", arrays[0].shape[::-1] if arrays else (1, 1)
    matlab_class = item.attrs["MATLAB_class"].decode()
    if item.attrs.get("MATLAB_empty", 0):  # An empty array stores its dimensions.
        return matlab_class, (0,)
    stored = item.dtype.newbyteorder("=")
    if stored.names:
        matlab_class = f"complex {matlab_class}"
    elif _mat_5.DTYPES.get(matlab_class, stored) != stored:
        raise ValueError(f"class {matlab_class} and stored type {stored} disagree")
    return matlab_class, item.shape[::-1]  # HDF5 lists the axes in reverse.
