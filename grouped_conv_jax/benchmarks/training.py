"""Measures training steps of whole networks, with this package and without."""

import functools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from grouped_conv_jax.benchmarks import network_linen, network_nnx, network_torch, timing
from grouped_conv_jax.benchmarks.contenders import Contender, compile_jax
from grouped_conv_jax.benchmarks.harness import Settings
from grouped_conv_jax.benchmarks.networks import CLASSES, NETWORKS, Network
from grouped_conv_jax.benchmarks.pytorch import Torch
from grouped_conv_jax.benchmarks.timing import Ready
from grouped_conv_jax.operation._drop_in import conv_general_dilated

_APIS: dict[str, ModuleType] = {"linen": network_linen, "nnx": network_nnx}
# Whose convolutions.
CONVOLUTIONS: dict[str, Callable[..., jax.Array]] = {
    "ours": conv_general_dilated,
    "lax": jax.lax.conv_general_dilated,
}
# Rounding errors grow on their way through fifty layers, but a wrong gradient is off by all of it.
_LARGEST_DIFFERENCE = 0.1


def measure(
    name: str, settings: Settings, torch: Torch | None, batch: int, image_size: int
) -> list[dict[str, Any]]:
    """Measures one training step of a network: forward and backward pass and the update.

    The gradients of this package are compared with lax's, where that takes part.

    Args:
        name: of the network.
        settings: how to measure; roles, dtype and implementation do not matter here.
        torch: PyTorch, where it takes part.
        batch: number of images.
        image_size: their height and width.

    Returns:
        A record for each contender.
    """
    random = np.random.default_rng(0)
    images = random.standard_normal((batch, image_size, image_size, 3), np.float32)
    labels = random.integers(CLASSES, size=batch, dtype=np.int32)
    records: list[dict[str, Any]] = []
    ready: list[Ready] = []
    own: list[tuple[dict[str, Any], Any]] = []
    for kind, variant, prepare in _candidates(NETWORKS[name], settings, torch, images, labels):
        record: dict[str, Any] = {"network": name, "contender": kind, "variant": variant}
        record |= {"batch": batch, "image_size": image_size}
        records.append(record)
        # Whatever a contender raises is what is to be known about it.
        try:
            contender = prepare()
            result, seconds = timing.first_calls(contender)
        except Exception as failure:
            record["failure"] = timing.describe(failure)
            continue
        record |= contender.details
        ready.append(Ready(record, contender, seconds))
        if kind == "ours":
            own.append((record, _gradient(result)))
        elif kind == "lax":
            # Those before it are of the same interface.
            while own:
                _compare(*own.pop(), _gradient(result))
    timing.take_blocks(ready, settings.rounds, settings.seconds)
    return records


def _candidates(
    network: Network,
    settings: Settings,
    torch: Torch | None,
    images: np.ndarray,
    labels: np.ndarray,
) -> Iterator[tuple[str, str, Callable[[], Contender]]]:
    """Name and variant of each contender, and what prepares it; lax after ours."""
    for api in _APIS:
        for kind, convolve in CONVOLUTIONS.items():
            if kind in ("ours", *settings.against):
                prepare = functools.partial(_prepare, kind, api, convolve, network)
                yield kind, api, functools.partial(prepare, images, labels)
    if torch:
        in_layout = functools.partial(network_torch.prepare, torch, network, images, labels)
        for layout in Torch.layouts:
            yield "torch", layout, functools.partial(in_layout, layout)


def _prepare(
    kind: str,
    api: str,
    convolve: Callable[..., jax.Array],
    network: Network,
    images: np.ndarray,
    labels: np.ndarray,
) -> Contender:
    pictures, answers = jax.device_put((images, labels))
    step, state = _APIS[api].training_step(network, convolve, pictures)
    compiled, details = compile_jax(step, state, pictures, answers)
    return Contender(
        kind,
        api,
        lambda: compiled(state, pictures, answers),
        jax.block_until_ready,
        jax.default_backend() != "cpu",
        details,
    )


def _gradient(result: Any) -> Any:
    """The gradient: what momentum starts from."""
    (_, _, moments), _ = result
    return moments


def _compare(record: dict[str, Any], gradient: Any, expected: Any) -> None:
    """Records the norm of the difference over the norm of what is expected."""
    (ours, _), (theirs, _) = ravel_pytree(gradient), ravel_pytree(expected)
    ratio = float(jnp.linalg.norm(ours - theirs) / jnp.linalg.norm(theirs))
    record["gradient_difference"] = timing.rounded(ratio)
    # This refuses NaN too.
    if not ratio <= _LARGEST_DIFFERENCE:
        record["failure"] = f"wrong: the gradient differs from lax's by {ratio:.1e} of its norm"
