"""The mesh behind the tiles that the compiler gives to devices."""

from collections.abc import Iterator, Sequence

import numpy as np
from jax.sharding import AbstractMesh, PartitionSpec


def common_mesh(
    tilings: Sequence[np.ndarray | None], devices: int
) -> tuple[AbstractMesh, list[PartitionSpec]]:
    """A mesh over which all arrays are partitioned, and how.

    The compiler tells which device has which tile of an array, but not the mesh behind it. Every
    mesh is one of prime sizes in which axes are joined.

    Args:
        tilings: for each array, which tile along each of its axes each device has,
            ``(axes, devices)``; ``None`` for an array that is not tiled.
        devices: their number.
    """
    best = -1
    for sizes in _orders(_prime_factors(devices)):
        names = tuple(f"mesh{i}" for i in range(len(sizes)))
        digits = np.array(np.unravel_index(np.arange(devices), sizes))
        found = [() if tiling is None else _partition(tiling, digits) for tiling in tilings]
        fitting = sum(one is not None for one in found)
        if fitting > best:
            best, mesh = fitting, AbstractMesh(sizes, names)
            specs = [
                PartitionSpec(*(tuple(names[i] for i in axes) for axes in one or ()))
                for one in found
            ]
    return mesh, specs


def _partition(tiling: np.ndarray, digits: np.ndarray) -> list[tuple[int, ...]] | None:
    """For each axis of an array, which digits of a device's number make up its tile's."""
    # The device all of whose digits are zero but one.
    units = [int(np.flatnonzero((digit == 1) & (digits.sum(0) == 1))[0]) for digit in digits]
    partition = []
    for tiles in tiling:
        steps = tiles[units]
        if not np.array_equal(steps @ digits, tiles):
            return None
        used = sorted(np.flatnonzero(steps), key=lambda i: -steps[i])
        partition.append(tuple(map(int, used)))
    return partition


def _orders(factors: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The different orders of some numbers."""
    if not factors:
        yield ()
    for first in sorted(set(factors)):
        at = factors.index(first)
        for others in _orders(factors[:at] + factors[at + 1 :]):
            yield (first, *others)


def _prime_factors(number: int) -> tuple[int, ...]:
    smallest = next((i for i in range(2, number + 1) if number % i == 0), None)
    return () if smallest is None else (smallest, *_prime_factors(number // smallest))
