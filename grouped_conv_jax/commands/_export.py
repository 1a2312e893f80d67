"""Export of trained networks to StableHLO, which runs without this package."""

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
    """Serializes the function from images to probabilities, with the parameters as constants.

    Args:
        network: a network with a fixed implementation, independent of the current device.
        params: parameters of the network.
        batch_stats: batch statistics of the network.
        image_shape: ``(H, W, C)``.

    Returns:
        Bytes for ``jax.export.deserialize``. The function maps images ``(B, H, W, C)``, float32 in
        [0, 1], for any ``B``, to probabilities ``(B, K)``, on all ``PLATFORMS``.
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
    """Keeps JAX from recording the paths of local source files in the module."""
    option = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, option)
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, before)
