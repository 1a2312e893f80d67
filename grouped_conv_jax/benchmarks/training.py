"""Measures training steps of whole networks, with this package and without."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import jax
import numpy as np
import optax

from grouped_conv_jax._drop_in import conv_general_dilated
from grouped_conv_jax.benchmarks import network_linen, network_nnx, network_torch, timing
from grouped_conv_jax.benchmarks.contenders import Contender, compile_jax
from grouped_conv_jax.benchmarks.harness import Settings
from grouped_conv_jax.benchmarks.networks import CLASSES, NETWORKS, Network
from grouped_conv_jax.benchmarks.pytorch import Torch
from grouped_conv_jax.benchmarks.timing import Ready

_APIS: dict[str, ModuleType] = {"linen": network_linen, "nnx": network_nnx}
_CONVOLUTIONS: dict[str, Callable[..., jax.Array]] = {
    "ours": conv_general_dilated,
    "lax": jax.lax.conv_general_dilated,
}
# Rounding errors grow on their way through fifty layers, but a wrong gradient is off by all of it.
_LARGEST_DIFFERENCE = 0.05


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
    own: dict[str, tuple[dict[str, Any], Any]] = {}
    for contender in _contenders(NETWORKS[name], settings, torch, images, labels):
        record = {
            "network": name,
            "contender": contender.name,
            "variant": contender.variant,
            "batch": batch,
            "image_size": image_size,
            **contender.details,
        }
        records.append(record)
        result, seconds = timing.first_calls(contender)
        if contender.name == "ours":
            own[contender.variant] = record, _gradient(result)
        elif contender.name == "lax":
            our_record, gradient = own.pop(contender.variant)
            difference = _difference(gradient, _gradient(result))
            our_record["gradient_difference"] = timing.rounded(difference)
            # This refuses NaN too.
            if not difference <= _LARGEST_DIFFERENCE:
                our_record["failure"] = f"wrong: the gradient is {difference:.1e} off lax's"
        ready.append(Ready(record, contender, seconds))
    timing.take_turns(ready, settings.repeats, settings.budget)
    return records


def _contenders(
    network: Network,
    settings: Settings,
    torch: Torch | None,
    images: np.ndarray,
    labels: np.ndarray,
) -> Iterator[Contender]:
    on_cpu = jax.default_backend() == "cpu"
    pictures, answers = jax.device_put((images, labels))
    for api, flax in _APIS.items():
        for kind, convolve in _CONVOLUTIONS.items():
            if kind not in ("ours", *settings.against):
                continue
            step, state = flax.training_step(network, convolve, pictures)
            compiled, details = compile_jax(step, state, pictures, answers)

            def run(compiled: Any = compiled, state: Any = state) -> Any:
                return compiled(state, pictures, answers)

            yield Contender(kind, api, run, jax.block_until_ready, not on_cpu, np.asarray, details)
    if torch:
        for layout in Torch.layouts:
            steps = network_torch.training_step(torch, network, images, labels, layout)
            yield Contender("torch", layout, steps, torch.wait, not on_cpu, np.asarray, {})


def _gradient(result: Any) -> Any:
    """The gradient: what momentum starts from."""
    (_, _, moments), _ = result
    return moments


def _difference(gradient: Any, expected: Any) -> float:
    """The norm of the difference over the norm of what is expected."""
    difference = jax.tree.map(lambda a, b: a - b, gradient, expected)
    return float(optax.global_norm(difference) / optax.global_norm(expected))
