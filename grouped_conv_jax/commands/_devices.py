"""The devices of all processes: each has a part of every batch, and everything else."""

from collections.abc import Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")


class Devices:
    """Devices that compute together.

    Args:
        devices: which; ``None`` for all that JAX has.

    Attributes:
        everywhere: the sharding of what each of them has.
        count: how many there are.
    """

    def __init__(self, devices: Sequence[jax.Device] | None = None) -> None:
        mesh = Mesh(np.array(jax.devices() if devices is None else devices), ("batch",))
        self.everywhere = NamedSharding(mesh, PartitionSpec())
        self.count = mesh.size
        self._parts = NamedSharding(mesh, PartitionSpec("batch"))

    def spread(self, batch: np.ndarray) -> jax.Array:
        """Gives each device its part of the first axis, whose length is a multiple of ``count``."""
        return jax.make_array_from_callback(batch.shape, self._parts, batch.__getitem__)

    def replicate(self, tree: Tree) -> Tree:
        """Gives each device all arrays, which must be the same in all processes."""

        def place(leaf: np.ndarray) -> jax.Array:
            whole = np.asarray(leaf)
            return jax.make_array_from_callback(whole.shape, self.everywhere, whole.__getitem__)

        return jax.tree.map(place, tree)
