"""MATLAB's files of version 5, 6 and 7, as the MAT-File Format document lays them out.

A header of 128 bytes, then arrays. An array is a tag (its kind and its size in bytes) and parts,
each with a tag of its own: flags, dimensions, name, values. Version 7 compresses arrays one by one.
SciPy's reader is not used: it lists no names where a file also holds objects of MATLAB classes,
takes all the memory that a file claims, and some damaged files crash the process.
"""

import itertools
import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

HEADER_BYTES = 128
_INTEGER_CLASSES = [f"{sign}int{bits}" for bits in (8, 16, 32, 64) for sign in ("", "u")]
DTYPES = {name: np.dtype(name) for name in ("double", "single", *_INTEGER_CLASSES)}
"""The numeric classes of MATLAB."""

# All classes by their codes, from 1.
_CLASSES = ["cell", "struct", "object", "char", "sparse", "double", "single", *_INTEGER_CLASSES]
_CLASSES += ["function", "opaque"]
_LOGICAL, _COMPLEX = 0x200, 0x800
_ARRAY, _COMPRESSED = 14, 15
# The dtype in which values are stored, by its code.
_STORED = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
# Flags, dimensions and name stand at the start of an array; this is more than they can need.
_HEAD_BYTES = 1024

_ByteOrder: TypeAlias = Literal["<", ">"]


class Array(NamedTuple):
    """An array whose values are not read yet."""

    matlab_class: str
    size: tuple[int, ...]
    content: bytes
    compressed: bool
    order: _ByteOrder


def arrays(data: bytes) -> Iterator[tuple[str, Array]]:
    """The name of each array in a file, and what stands under it."""
    # The header ends with the letters MI, as the writer's byte order has them.
    order: _ByteOrder = "<" if data[HEADER_BYTES - 2 : HEADER_BYTES] == b"IM" else ">"
    position = HEADER_BYTES
    while position < len(data):
        kind, length = struct.unpack_from(order + "2I", data, position)
        start, end = position + 8, position + 8 + length
        if kind not in (_ARRAY, _COMPRESSED) or end > len(data):
            raise ValueError(f"no complete array begins at byte {position} of {len(data)}")
        content, compressed = data[start:end], kind == _COMPRESSED
        head = zlib.decompressobj().decompress(content, _HEAD_BYTES)[8:] if compressed else content
        name, matlab_class, size = _head(head, order)
        yield name, Array(matlab_class, size, content, compressed, order)
        position = end


def values(array: Array) -> npt.NDArray[Any]:
    """The values of an array of a numeric class."""
    content = array.content
    if array.compressed:
        inflater = zlib.decompressobj()
        # No array needs more, and a damaged or a hostile one gets no more.
        content = inflater.decompress(content, _HEAD_BYTES + 8 * math.prod(array.size))[8:]
        if not inflater.eof:
            raise ValueError("a compressed array is incomplete or larger than its size")
    _, _, _, (kind, numbers) = itertools.islice(_parts(content, array.order), 4)
    # A double of small whole numbers is stored as integers, hence the conversion.
    stored = np.frombuffer(numbers, np.dtype(_STORED[kind]).newbyteorder(array.order))
    return stored.reshape(array.size, order="F").astype(DTYPES[array.matlab_class], order="C")


def _head(content: bytes, order: _ByteOrder) -> tuple[str, str, tuple[int, ...]]:
    """The name, the class and the size of an array, from the first bytes of it."""
    parts = (part for _, part in _parts(content, order))
    (flags,) = struct.unpack_from(order + "I", next(parts))
    matlab_class = _CLASSES[(flags & 0xFF) - 1]
    if matlab_class == "opaque":
        name, _, matlab_class = (part.decode("latin1") for part in itertools.islice(parts, 3))
        return name, matlab_class, ()
    dimensions = next(parts)
    size = struct.unpack(f"{order}{len(dimensions) // 4}i", dimensions)
    if flags & _LOGICAL:
        matlab_class = "logical"
    if flags & _COMPLEX:
        matlab_class = f"complex {matlab_class}"
    return next(parts).decode("latin1"), matlab_class, size


def _parts(content: bytes, order: _ByteOrder) -> Iterator[tuple[int, bytes]]:
    """The kind and the content of each part of an array, which fills up to eight bytes."""
    position = 0
    while position < len(content):
        kind, length = struct.unpack_from(order + "2I", content, position)
        start = position + 8
        if kind >> 16:  # Up to four bytes stand in the tag itself.
            start, length, kind = position + 4, kind >> 16, kind & 0xFFFF
        yield kind, content[start : start + length]
        position = start + length + -(start + length) % 8
