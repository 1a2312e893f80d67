"""Derives a mesh from the compiler's assignment of tiles to devices."""

from collections.abc import Iterator, Sequence

import numpy as np
from jax.sharding import AbstractMesh, PartitionSpec


def common_mesh(
    tilings: Sequence[np.ndarray | None], devices: int
) -> tuple[AbstractMesh, list[PartitionSpec]]:
    """Finds a mesh over which as many arrays as possible are partitioned.

    The compiler reports which device holds which tile of an array, but not the mesh that the tiles
    come from. Every mesh results from one with axes of prime sizes by merging axes, so it suffices
    to try the orders of the prime factors.

    Args:
        tilings: for each array, the index of each device's tile along each axis,
            ``(axes, devices)``; ``None`` for an array that is not tiled.
        devices: the number of devices.

    Returns:
        The mesh, and the partition spec of each array; that of an array that does not fit is empty.
    """
    best = -1
    for sizes in _orders(_prime_factors(devices)):
        names = tuple(f"mesh{i}" for i in range(len(sizes)))
        digits = np.array(np.unravel_index(np.arange(devices), sizes))
        partitions = [() if tiling is None else _partition(tiling, digits) for tiling in tilings]
        fitting = sum(partition is not None for partition in partitions)
        if fitting > best:
            best, mesh = fitting, AbstractMesh(sizes, names)
            specs = [
                PartitionSpec(*(tuple(names[i] for i in axes) for axes in partition or ()))
                for partition in partitions
            ]
    return mesh, specs


def _partition(tiling: np.ndarray, digits: np.ndarray) -> list[tuple[int, ...]] | None:
    """For each axis of an array, the mesh axes that split it; ``None`` if the mesh does not fit.

    Args:
        tiling: the index of each device's tile along each axis, ``(axes, devices)``.
        digits: each device's coordinates in the mesh, ``(mesh axes, devices)``.
    """
    # For each mesh axis, the device with coordinate 1 along it and 0 along the others.
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
    """Yields the distinct permutations of ``factors``."""
    if not factors:
        yield ()
    for first in sorted(set(factors)):
        at = factors.index(first)
        for others in _orders(factors[:at] + factors[at + 1 :]):
            yield (first, *others)


def _prime_factors(number: int) -> tuple[int, ...]:
    smallest = next((i for i in range(2, number + 1) if number % i == 0), None)
    return () if smallest is None else (smallest, *_prime_factors(number // smallest))
