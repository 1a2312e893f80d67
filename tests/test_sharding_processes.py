"""Over two processes, each with four devices, the results are those of one device."""

import functools
import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from sharding_cases import BOTH, collectives

from grouped_conv_jax import grouped_conv2d

PROCESSES, DEVICES = 2, 4
# The first axis of the mesh goes over the processes.
SHARDINGS = {
    "batch": (P(BOTH), P()),
    "groups": (P(None, None, None, BOTH), P(None, None, None, None, BOTH)),
    "batch and groups": (P("data", None, None, "model"), P(None, None, None, None, "model")),
    "height": (P(None, BOTH), P()),
}


def operands():
    random = np.random.default_rng(0)
    shapes = (8, 16, 4, 16), (3, 3, 2, 2, 8)
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


def value_and_gradients(x, weights, implementation=None):
    def loss(x, weights):
        y = grouped_conv2d(x, weights, padding="same", implementation=implementation)
        return jnp.sum(jnp.sin(y)), y

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(x, weights)


@functools.cache
def alone():
    """What one device makes of it."""
    return jax.jit(value_and_gradients, static_argnums=2)(*operands(), "lax")


def take_part(coordinator, process):
    """Is one of the processes, and compares what it holds of the results."""
    jax.config.update("jax_num_cpu_devices", DEVICES)
    jax.distributed.initialize(coordinator, PROCESSES, int(process), initialization_timeout=60)
    assert (len(jax.devices()), len(jax.local_devices())) == (PROCESSES * DEVICES, DEVICES)
    alone()  # Remembered before there is a mesh, over which even this would be computed.
    for mode in AxisType.Auto, AxisType.Explicit:
        mesh = jax.make_mesh((PROCESSES, DEVICES), BOTH, (mode, mode))
        for name, specs in SHARDINGS.items():
            shardings = [NamedSharding(mesh, spec) for spec in specs]
            with jax.set_mesh(mesh):
                compare(name, shardings)


def compare(name, shardings):
    arrays = [
        jax.make_array_from_callback(whole.shape, sharding, whole.__getitem__)
        for whole, sharding in zip(operands(), shardings, strict=True)
    ]
    compiled = jax.jit(value_and_gradients).lower(*arrays).compile()
    unexpected = set(collectives(compiled)) - {"all-reduce"}
    assert unexpected <= ({"collective-permute"} if name == "height" else set()), unexpected
    for result, whole in zip(
        jax.tree.leaves(compiled(*arrays)), jax.tree.leaves(alone()), strict=True
    ):
        for shard in result.addressable_shards:
            desired = np.asarray(whole)[shard.index]
            np.testing.assert_allclose(shard.data, desired, rtol=1e-4, atol=1e-3)


def test_two_processes_get_what_one_device_gets():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{unused.getsockname()[1]}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, coordinator, str(process)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(PROCESSES)
    ]
    try:
        written = [process.communicate(timeout=180)[0] for process in started]
    except subprocess.TimeoutExpired:
        pytest.fail("the processes do not come to an end")
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * PROCESSES, "\n".join(written)


if __name__ == "__main__":
    take_part(*sys.argv[1:])
