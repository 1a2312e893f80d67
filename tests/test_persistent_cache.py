"""Processes share the compilation cache, and no program is taken for another."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from grouped_conv_jax import conv_general_dilated

# Differ in nothing that the shapes tell.
ARGUMENTS = {
    "before": {"padding": ((2, 0), (2, 0))},
    "after": {"padding": ((0, 2), (0, 2))},
    "dilated": {"padding": ((2, 2), (2, 2)), "rhs_dilation": (2, 2)},
}


def convolve(x, w, name, convolution=conv_general_dilated):
    numbers = ("NHWC", "HWIO", "NHWC")
    return convolution(
        x, w, (1, 1), dimension_numbers=numbers, feature_group_count=4, **ARGUMENTS[name]
    )


def value_and_gradients(x, w, name, *convolution):
    def loss(x, w):
        return jnp.sum(jnp.sin(convolve(x, w, name, *convolution)))

    return jax.value_and_grad(loss, (0, 1))(x, w)


def take_part(directory, without_pointers, *names):
    """Compiles programs, and prints how many of them the cache did not have."""
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_remove_custom_partitioning_ptr_from_cache_key", without_pointers == "1")
    random = np.random.default_rng(0)
    x = random.standard_normal((8, 8, 8, 8)).astype(np.float32)
    w = random.standard_normal((3, 3, 2, 12)).astype(np.float32)
    desired = {
        name: jax.jit(value_and_gradients, static_argnums=(2, 3))(
            x, w, name, jax.lax.conv_general_dilated
        )
        for name in names
    }
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,))
    sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
    whole = jax.device_put(w, NamedSharding(mesh, P()))
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()

    def entries():
        return len([*pathlib.Path(directory).glob("jit_value_and_gradients*-cache")])

    missing = []
    for name in names:
        before = entries()
        actual = jax.jit(value_and_gradients, static_argnums=2)(sharded, whole, name)
        missing.append(str(entries() - before))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
            actual,
            desired[name],
        )
    sys.stdout.write(f"missing: {' '.join(missing)}\n")


def start(directory, without_pointers, *names):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, __file__, str(directory), without_pointers, *names],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("missing:")[1].split()


@pytest.mark.parametrize("without_pointers", ["0", "1"])
def test_processes_never_get_each_other_s_programs_and_share_their_own(tmp_path, without_pointers):
    assert start(tmp_path, without_pointers, "before", "dilated") == ["1", "1"]
    found = start(tmp_path, without_pointers, "after", "before", "dilated")
    # A pointer in the key may by chance be that of the other process.
    assert found == ["1", "0", "0"] if without_pointers == "1" else found[0] == "1"


if __name__ == "__main__":
    import jax.experimental.compilation_cache.compilation_cache

    take_part(*sys.argv[1:])
