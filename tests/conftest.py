"""What every test runs under: strict promotion, so that no mixed dtype or rank goes unnoticed.

And eight devices, for the tests that shard; what is not sharded stays on the first.
"""

import os

# Before JAX and matplotlib start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)
