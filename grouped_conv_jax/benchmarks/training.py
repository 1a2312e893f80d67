"""Measures training steps of whole networks, with and without this package."""

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
CONVOLUTIONS: dict[str, Callable[..., jax.Array]] = {
    "ours": conv_general_dilated,
    "lax": jax.lax.conv_general_dilated,
}
# Of gradients, relative to lax's: above rounding errors after fifty layers, below a wrong gradient.
_LARGEST_DIFFERENCE = 0.1


def measure(
    name: str, settings: Settings, torch: Torch | None, batch: int, image_size: int
) -> list[dict[str, Any]]:
    """Measures one training step of a network: forward pass, backward pass and update.

    Compares the gradients of this package with those of lax, if lax is a contender.

    Args:
        name: name of the network.
        settings: how to measure; roles, dtype and implementation are ignored.
        torch: PyTorch, if it is a contender.
        batch: number of images.
        image_size: height and width of the images.

    Returns:
        One record per contender.
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
        # Record any error of a contender, so that the others are still measured.
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
            # Ours precedes lax for the same Flax API.
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
    """Yields name, variant and preparing function of each contender; lax follows ours."""
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
    x, y = jax.device_put((images, labels))
    step, state = _APIS[api].training_step(network, convolve, x)
    compiled, details = compile_jax(step, state, x, y)
    return Contender(
        kind,
        api,
        lambda: compiled(state, x, y),
        jax.block_until_ready,
        jax.default_backend() != "cpu",
        details,
    )


def _gradient(result: Any) -> Any:
    """Returns the gradient, which equals the momentum after the first step."""
    (_, _, moments), _ = result
    return moments


def _compare(record: dict[str, Any], gradient: Any, expected: Any) -> None:
    """Records the relative norm of the difference from the expected gradient."""
    (ours, _), (theirs, _) = ravel_pytree(gradient), ravel_pytree(expected)
    ratio = float(jnp.linalg.norm(ours - theirs) / jnp.linalg.norm(theirs))
    record["gradient_difference"] = timing.rounded(ratio)
    # NaN fails this comparison too.
    if not ratio <= _LARGEST_DIFFERENCE:
        record["failure"] = f"wrong: the gradient differs from lax's by {ratio:.1e} of its norm"
