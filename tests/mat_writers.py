"""Writes MATLAB files of every version: by SciPy, by h5py in MATLAB's conventions, and by hand."""

import struct
import zlib

import h5py
import numpy as np
import scipy.io

SIZES = (3, 2), 2, 4, 5
WEIGHTS = np.arange(240, dtype=np.float32).reshape(3, 2, 2, 4, 5) / 7
BIAS = np.arange(20, dtype=np.float32).reshape(1, 1, 4, 5) / 3


def save_6(path, **arrays):
    scipy.io.savemat(path, arrays)


def save_7(path, **arrays):
    scipy.io.savemat(path, arrays, do_compression=True)


def save_73(path, **arrays):
    """HDF5 with MATLAB's conventions: 512 bytes before it, reversed axes, classes as attributes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            dataset = file.create_dataset(name, data=np.asarray(array).T)
            classes = {"float32": "single", "float64": "double"}
            matlab_class = classes.get(array.dtype.name, array.dtype.name)
            dataset.attrs["MATLAB_class"] = np.bytes_(matlab_class)
    write_73_header(path)


def write_73_header(path):
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: today HDF5 schema 1.00 ."
    with open(path, "r+b") as file:
        file.write(header.ljust(124) + b"\x00\x02IM")


SAVERS = {"6": save_6, "7": save_7, "7.3": save_73}


def part_5(kind, payload, order):
    """A part of a version 5 file; up to four bytes go into its tag, as MATLAB puts them."""
    if 0 < len(payload) <= 4:
        return struct.pack(order + "I", len(payload) << 16 | kind) + payload.ljust(4, b"\0")
    return struct.pack(order + "2I", kind, len(payload)) + payload + b"\0" * (-len(payload) % 8)


def array_5(name, matlab_class, size, kind, values, order="<"):
    """A version 5 array; codes of classes and kinds are those of the format."""
    return part_5(
        14,
        part_5(6, struct.pack(order + "2I", matlab_class, 0), order)
        + part_5(5, struct.pack(f"{order}{len(size)}i", *size), order)
        + part_5(1, name.encode(), order)
        + part_5(kind, values, order),
        order,
    )


def write_5(path, *arrays, order="<"):
    header = b"MATLAB 5.0 MAT-file, written by hand".ljust(124)
    ending = b"\x00\x01IM" if order == "<" else b"\x01\x00MI"
    path.write_bytes(header + ending + b"".join(arrays))


def object_5(name, matlab_class):
    """A version 5 object of a MATLAB class, such as a dlarray or a layer."""
    reference = array_5("", 13, (6, 1), 6, struct.pack("<6I", 0xDD000000, 2, 1, 1, 1, 1))
    names = [part_5(1, text.encode(), "<") for text in (name, "MCOS", matlab_class)]
    return part_5(14, part_5(6, struct.pack("<2I", 17, 0), "<") + b"".join(names) + reference, "<")


def compressed_5(array):
    """An array of version 7: the same bytes, compressed."""
    packed = zlib.compress(array)
    return struct.pack("<2I", 15, len(packed)) + packed


def damaged(content):
    """A file once for each damage to a byte behind its header."""
    for position in range(124, len(content)):
        for flipped in (0x01, 0x80, 0xFF):
            yield (
                content[:position] + bytes([content[position] ^ flipped]) + content[position + 1 :]
            )
