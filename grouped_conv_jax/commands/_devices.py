"""Data parallelism over the devices of all processes."""

from collections.abc import Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")


class Devices:
    """A mesh of devices that shard the batch and replicate everything else.

    Args:
        devices: the devices; ``None`` for all devices of JAX.

    Attributes:
        everywhere: the sharding of replicated arrays.
        count: number of devices.
    """

    def __init__(self, devices: Sequence[jax.Device] | None = None) -> None:
        mesh = Mesh(np.array(jax.devices() if devices is None else devices), ("batch",))
        self.everywhere = NamedSharding(mesh, PartitionSpec())
        self.count = mesh.size
        self._parts = NamedSharding(mesh, PartitionSpec("batch"))

    def spread(self, batch: np.ndarray) -> jax.Array:
        """Shards the first axis, whose length must be a multiple of ``count``, over the devices."""
        return jax.make_array_from_callback(batch.shape, self._parts, batch.__getitem__)

    def replicate(self, tree: Tree) -> Tree:
        """Replicates arrays over the devices; they must be the same in all processes."""

        def place(leaf: np.ndarray) -> jax.Array:
            whole = np.asarray(leaf)
            return jax.make_array_from_callback(whole.shape, self.everywhere, whole.__getitem__)

        return jax.tree.map(place, tree)
