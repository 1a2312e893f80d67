"""What every test runs under: strict promotion, so that no mixed dtype or rank goes unnoticed."""

import os

# Before JAX and matplotlib start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
