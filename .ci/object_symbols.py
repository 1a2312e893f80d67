"""Checks that what is compiled for one instruction set is not called by code for another.

A linker keeps one of several weak definitions of a function. If two object files define, say, the
same inline function of the standard library, one of them compiled for AVX-512, every processor may
be given that one. So each symbol that ``kernels-NAME.o`` defines has to have NAME in its own.

Reads object files of ELF with 64 bits itself, since a machine without a compiler has no ``nm``.
"""

# ruff: noqa: T201

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

SYMBOL_TABLE, LOCAL, UNDEFINED = 2, 0, 0


def symbols(path: Path) -> Iterator[str]:
    """The names that an object file defines and that a linker sees."""
    data = path.read_bytes()
    assert data[:5] == b"\x7fELF\x02", f"{path} is not ELF of 64 bits"
    (start,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    # Of each section: name, type, flags, address, offset, size, link, info, alignment, entry size.
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + size * i) for i in range(count)]
    for _, kind, _, _, offset, length, names, *_ in sections:
        if kind != SYMBOL_TABLE:
            continue
        for name, info, _, section in struct.iter_unpack(
            "<IBBH16x", data[offset : offset + length]
        ):
            if section != UNDEFINED and info >> 4 != LOCAL:
                begin = sections[names][4] + name
                yield data[begin : data.index(b"\0", begin)].decode()


def main(folder: str) -> int:
    """Checks the object files in a folder and returns the exit status."""
    status, objects = 0, sorted(Path(folder).glob("kernels-*.o"))
    for path in objects:
        instruction_set = path.stem.partition("-")[2]
        defined = list(symbols(path))
        shared = [name for name in defined if instruction_set not in name]
        print(
            f"{path.name} defines {len(defined)} symbols, {len(shared)} without its name",
            *shared[:9],
        )
        status |= bool(shared) or not defined
    return status or not objects


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
