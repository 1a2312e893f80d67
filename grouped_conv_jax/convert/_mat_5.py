"""Reads and writes MATLAB files of version 5, 6 and 7, as specified by "MAT-File Format".

A file consists of a header of 128 bytes and a sequence of arrays. An array consists of a tag (its
kind and its size in bytes) and of parts with their own tags: flags, dimensions, name, values.
Version 7 compresses each array. This module does not use SciPy's reader, which lists no names if a
file also holds objects of MATLAB classes, allocates all the memory that a file claims to need, and
crashes the process on some damaged files.
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
"""The dtypes of MATLAB's numeric classes."""

# All classes, in the order of their codes, which start at 1.
_CLASSES = ["cell", "struct", "object", "char", "sparse", "double", "single", *_INTEGER_CLASSES]
_CLASSES += ["function", "opaque"]
_LOGICAL, _COMPLEX = 0x200, 0x800
_ARRAY, _COMPRESSED = 14, 15
# The stored types of values, by their codes.
_STORED = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
# The encodings of characters, by the same codes; all others are stored as 16-bit integers.
_CODECS = {1: "latin1", 2: "latin1", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
# These versions hold no larger variable.
_STRUCT_BYTES = 2**31
# Names have up to 63 characters and a terminating zero.
_FIELD_BYTES = 64
# An upper bound on the size of flags, dimensions and name, which precede the values.
_HEAD_BYTES = 1024

_ByteOrder: TypeAlias = Literal["<", ">"]


class Array(NamedTuple):
    """An array whose values have not been read yet."""

    matlab_class: str
    size: tuple[int, ...]
    content: bytes
    compressed: bool
    order: _ByteOrder

    def values(self) -> npt.NDArray[Any]:
        """The values of an array of a numeric class."""
        # This bounds the memory that a damaged or hostile file can claim.
        content = self._inflated(_HEAD_BYTES + 8 * math.prod(self.size))
        _, _, _, (kind, numbers) = itertools.islice(_parts(content, self.order), 4)
        # MATLAB stores a double array of small integers in an integer type.
        stored = np.frombuffer(numbers, np.dtype(_STORED[kind]).newbyteorder(self.order))
        return stored.reshape(self.size, order="F").astype(DTYPES[self.matlab_class], order="C")

    def text(self) -> str:
        """The characters of an array of class char."""
        parts = _parts(self._inflated(_HEAD_BYTES + 8 * math.prod(self.size)), self.order)
        _, _, _, (kind, letters) = itertools.islice(parts, 4)
        codec = _CODECS.get(kind)
        # 16-bit integers are UTF-16 in the writer's byte order.
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
        arrays = [_array(content, False, self.order)[1] for content in values]
        return [
            dict(zip(fields, arrays[start : start + len(fields)], strict=True))
            for start in range(0, len(arrays), len(fields) or 1)
        ]

    def _inflated(self, limit: int) -> bytes:
        if not self.compressed:
            return self.content
        inflater = zlib.decompressobj()
        content = inflater.decompress(self.content, limit)[8:]
        if not inflater.eof:
            raise ValueError("a compressed array is incomplete or larger than its size")
        return content


def named_arrays(data: bytes) -> Iterator[tuple[str, Array]]:
    """Yields the name and the content of each array in a file."""
    # The header ends with the letters MI as a 16-bit integer in the writer's byte order.
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
    """Returns the name and the content of an array."""
    if not content:  # A struct field without a value.
        return "", Array("double", (0, 0), content, False, order)
    head = zlib.decompressobj().decompress(content, _HEAD_BYTES)[8:] if compressed else content
    name, matlab_class, size = _head(head, order)
    return name, Array(matlab_class, size, content, compressed, order)


def _head(content: bytes, order: _ByteOrder) -> tuple[str, str, tuple[int, ...]]:
    """Returns the name, the class and the size of an array, given its first bytes."""
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
    """Yields the kind and the content of each part of an array; parts align to eight bytes."""
    position = 0
    while position < len(content):
        kind, length = struct.unpack_from(order + "2I", content, position)
        start = position + 8
        if kind >> 16:  # The tag itself holds up to four bytes of content.
            start, length, kind = position + 4, kind >> 16, kind & 0xFFFF
        yield kind, content[start : start + length]
        position = start + length + -(start + length) % 8


def serialize(variables: Mapping[str, Any]) -> bytes:
    """Returns a file of version 6 with the given variables: arrays, or mappings for structs."""
    header = b"MATLAB 5.0 MAT-file, written by grouped_conv_jax".ljust(HEADER_BYTES - 4)
    body = b"".join(_serialize_array(name, value) for name, value in variables.items())
    return header + b"\x00\x01IM" + body


def _serialize_array(name: str, value: Any) -> bytes:
    """Serializes an array, or a struct of one element."""
    if isinstance(value, Mapping):
        code, size = _CLASSES.index("struct") + 1, (1, 1)
        names = b"".join(field.encode("latin1").ljust(_FIELD_BYTES, b"\0") for field in value)
        rest = _serialize_part(5, struct.pack("<i", _FIELD_BYTES)) + _serialize_part(1, names)
        rest += b"".join(_serialize_array("", inner) for inner in value.values())
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
        rest = _serialize_part(kind, stored.tobytes(order="F"))
    head = _serialize_part(6, struct.pack("<2I", code, 0)) + _serialize_part(
        5, struct.pack(f"<{len(size)}i", *size)
    )
    content = head + _serialize_part(1, name.encode("latin1")) + rest
    return struct.pack("<2I", _ARRAY, len(content)) + content


def _serialize_part(kind: int, content: bytes) -> bytes:
    """Serializes a part of an array; its tag holds up to four bytes of content."""
    if 0 < len(content) <= 4:
        return struct.pack("<I", len(content) << 16 | kind) + content.ljust(4, b"\0")
    return struct.pack("<2I", kind, len(content)) + content + b"\0" * (-len(content) % 8)
