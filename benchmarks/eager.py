"""Measures calls without ``jit`` of this package's functions and of those that they replace.

The convolution is small, so Python and dispatch dominate the time. Each pair is timed twice:
back to back, where the computation of one call overlaps with the Python of the next, and waiting
for each result. Prints a Markdown table.
"""

# ruff: noqa: T201

import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

import grouped_conv_jax as gcj

CHANNELS, CALLS, ROUNDS = 8, 100, 15


def contenders() -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Returns pairs of calls, ours and theirs, by description."""
    x = jnp.ones((1, 8, 8, CHANNELS))
    kernel, weights = jnp.ones((3, 3, 1, CHANNELS)), jnp.ones((3, 3, 1, 1, CHANNELS))
    bias = jnp.zeros((1, 1, 1, CHANNELS))

    def plain(convolve: Callable[..., jax.Array] = lax.conv_general_dilated) -> jax.Array:
        return convolve(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=CHANNELS,
        )

    linen = nn.Conv(CHANNELS, (3, 3), feature_group_count=CHANNELS)
    own_linen = gcj.linen.GroupedConv2D(3, 1, "channel-wise", padding="same")
    variables, own_variables = (layer.init(jax.random.key(0), x) for layer in (linen, own_linen))
    rngs = nnx.Rngs(0)
    flax_nnx = nnx.Conv(CHANNELS, CHANNELS, (3, 3), feature_group_count=CHANNELS, rngs=rngs)
    own_nnx = gcj.nnx.GroupedConv2D(CHANNELS, 3, 1, "channel-wise", padding="same", rngs=rngs)
    return {
        "`conv_general_dilated`, against lax": (lambda: plain(gcj.conv_general_dilated), plain),
        "`accelerate(f)`, against `f`": (gcj.accelerate(plain), plain),
        "`grouped_conv2d` with bias, against `nnx.Conv`": (
            lambda: gcj.grouped_conv2d(x, weights, bias, padding="same"),
            lambda: flax_nnx(x),
        ),
        "`nnx.GroupedConv2D`, against `nnx.Conv`": (lambda: own_nnx(x), lambda: flax_nnx(x)),
        "`linen.GroupedConv2D`, against `linen.Conv`": (
            lambda: own_linen.apply(own_variables, x),
            lambda: linen.apply(variables, x),
        ),
    }


def microseconds(
    pair: tuple[Callable[[], Any], Callable[[], Any]], wait: Callable[[Any], Any]
) -> list[float]:
    """Returns the lower quartiles of two calls, timed in alternating blocks.

    Args:
        pair: the calls.
        wait: called with each result.
    """
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for call, seen in zip(pair, times, strict=True):
            for _ in range(10):
                jax.block_until_ready(call())
            start = time.perf_counter()
            for _ in range(CALLS):
                result = wait(call())
            jax.block_until_ready(result)
            seen.append((time.perf_counter() - start) / CALLS * 1e6)
    return [float(np.quantile(seen, 0.25)) for seen in times]


def main() -> None:
    """Measures and prints the table."""
    print("| call | ours | theirs | ratio | waiting: ours | theirs | ratio |")
    print("| --- |" + " ---: |" * 6)
    for name, pair in contenders().items():
        cells = []
        for wait in (lambda result: result), jax.block_until_ready:
            ours, theirs = microseconds(pair, wait)
            cells += [f"{ours:.0f} µs", f"{theirs:.0f} µs", f"{ours / theirs:.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
