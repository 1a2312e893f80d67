"""The trained network as StableHLO, which runs without this package."""

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import export

from grouped_conv_jax.commands._networks import Arrays, Network

PLATFORMS = ("cpu", "cuda", "tpu")


def export_model(
    network: Network, params: Arrays, batch_stats: Arrays, image_shape: tuple[int, ...]
) -> bytes:
    """Serializes the function from images to probabilities, parameters included.

    Args:
        network: must not choose its implementation by the device at hand.
        params: its parameters.
        batch_stats: its batch statistics.
        image_shape: ``(H, W, C)``.

    Returns:
        What ``jax.export.deserialize`` takes: a function of ``(B, H, W, C)``, float32 from 0 to 1,
        for any ``B``, to ``(B, K)``, on any of ``PLATFORMS``.
    """

    def probabilities(images: jax.Array) -> jax.Array:
        logits, _ = network.logits(params, batch_stats, images, None)
        return jax.nn.softmax(logits)

    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    with _no_file_names():
        exported = export.export(jax.jit(probabilities), platforms=PLATFORMS)(images)
    return bytes(exported.serialize())


@contextlib.contextmanager
def _no_file_names() -> Iterator[None]:
    """Keeps out the paths of source files on this machine, which JAX would write with each line."""
    option = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, option)
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, before)
