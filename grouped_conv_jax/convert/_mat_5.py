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
from collections.abc import Iterator, Mapping
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
# How characters are encoded that are not stored as numbers of 16 bits, by the same codes.
_CODECS = {1: "latin1", 2: "latin1", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
# MATLAB writes no larger variable in these versions.
_STRUCT_BYTES = 2**31
# Names have up to 63 letters, and a zero.
_FIELD_BYTES = 64
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

    def values(self) -> npt.NDArray[Any]:
        """The values of an array of a numeric class."""
        # No array needs more, and a damaged or a hostile one gets no more.
        content = self._inflated(_HEAD_BYTES + 8 * math.prod(self.size))
        _, _, _, (kind, numbers) = itertools.islice(_parts(content, self.order), 4)
        # A double of small whole numbers is stored as integers, hence the conversion.
        stored = np.frombuffer(numbers, np.dtype(_STORED[kind]).newbyteorder(self.order))
        return stored.reshape(self.size, order="F").astype(DTYPES[self.matlab_class], order="C")

    def text(self) -> str:
        """The characters of an array of class char."""
        parts = _parts(self._inflated(_HEAD_BYTES + 8 * math.prod(self.size)), self.order)
        _, _, _, (kind, letters) = itertools.islice(parts, 4)
        codec = _CODECS.get(kind)
        # What is stored as numbers of 16 bits is UTF-16, in the writer's byte order.
        return letters.decode(codec or ("utf-16-le" if self.order == "<" else "utf-16-be"))

    def elements(self) -> list[dict[str, "Array"]]:
        """The fields of each element of a struct array."""
        content = self._inflated(_STRUCT_BYTES)
        _, _, _, length, names, *values = (part for _, part in _parts(content, self.order))
        (width,) = struct.unpack(self.order + "i", length)
        fields = [
            names[start : start + width].partition(b"\0")[0].decode("latin1")
            for start in range(0, len(names), width)
        ]
        if len(values) != len(fields) * math.prod(self.size):
            raise ValueError("a struct array lacks fields")
        found = [_array(content, False, self.order)[1] for content in values]
        return [
            dict(zip(fields, found[start : start + len(fields)], strict=True))
            for start in range(0, len(found), len(fields) or 1)
        ]

    def _inflated(self, limit: int) -> bytes:
        if not self.compressed:
            return self.content
        inflater = zlib.decompressobj()
        content = inflater.decompress(self.content, limit)[8:]
        if not inflater.eof:
            raise ValueError("a compressed array is incomplete or larger than its size")
        return content


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
        yield _array(data[start:end], kind == _COMPRESSED, order)
        position = end


def _array(content: bytes, compressed: bool, order: _ByteOrder) -> tuple[str, Array]:
    """The name of an array, and what stands under it."""
    if not content:  # A field that nothing was assigned to.
        return "", Array("double", (0, 0), content, False, order)
    head = zlib.decompressobj().decompress(content, _HEAD_BYTES)[8:] if compressed else content
    name, matlab_class, size = _head(head, order)
    return name, Array(matlab_class, size, content, compressed, order)


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


def written(variables: Mapping[str, Any]) -> bytes:
    """A file of version 6 with variables: arrays, or mappings for structs, by their names."""
    header = b"MATLAB 5.0 MAT-file, written by grouped_conv_jax".ljust(HEADER_BYTES - 4)
    body = b"".join(_written_array(name, value) for name, value in variables.items())
    return header + b"\x00\x01IM" + body


def _written_array(name: str, value: Any) -> bytes:
    """An array, or a struct of one element."""
    if isinstance(value, Mapping):
        code, size = _CLASSES.index("struct") + 1, (1, 1)
        names = b"".join(field.encode("latin1").ljust(_FIELD_BYTES, b"\0") for field in value)
        rest = _part(5, struct.pack("<i", _FIELD_BYTES)) + _part(1, names)
        rest += b"".join(_written_array("", inner) for inner in value.values())
    else:
        array = np.asarray(value)
        shape = [*array.shape, *(1,) * (2 - array.ndim)]
        while shape[-1] == 1 and len(shape) > 2:
            shape.pop()
        size = tuple(shape)
        matlab_class = next(key for key, dtype in DTYPES.items() if dtype == array.dtype)
        code = _CLASSES.index(matlab_class) + 1
        kind = next(key for key, letter in _STORED.items() if np.dtype(letter) == array.dtype)
        stored = array.astype(array.dtype.newbyteorder("<"), order="F")
        rest = _part(kind, stored.tobytes(order="F"))
    head = _part(6, struct.pack("<2I", code, 0)) + _part(5, struct.pack(f"<{len(size)}i", *size))
    content = head + _part(1, name.encode("latin1")) + rest
    return struct.pack("<2I", _ARRAY, len(content)) + content


def _part(kind: int, content: bytes) -> bytes:
    """A part of an array; up to four bytes stand in its tag."""
    if 0 < len(content) <= 4:
        return struct.pack("<I", len(content) << 16 | kind) + content.ljust(4, b"\0")
    return struct.pack("<2I", kind, len(content)) + content + b"\0" * (-len(content) % 8)
