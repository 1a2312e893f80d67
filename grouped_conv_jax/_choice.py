"""Which implementation computes a role, for a platform and a shape, and why."""

import functools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax

from grouped_conv_jax import _checks
from grouped_conv_jax._convolution import Convolution, Role
from grouped_conv_jax._implementations import blocks, lax, native, pointwise, taps

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

# Weights a tap, and taps, up to which a GPU takes sums, in forward pass and input gradient. Up to
# 7x7 a depthwise convolution of float32 is bound by memory there; the loops that sum up larger
# filters are made for XLA:CPU.
_FEW_ON_GPU, _TAPS_ON_GPU = 4, 49
# Channels, and filters, of the narrowest matrix product that one group is computed by.
_FEWEST_OF_PRODUCTS = 8

_MODULES: dict[str, ModuleType] = {
    "native": native,
    "lax": lax,
    "taps": taps,
    "blocks": blocks,
}


class Choice(NamedTuple):
    """An implementation of one role.

    Attributes:
        implementation: its name.
        reason: why it was chosen.
    """

    implementation: str
    reason: str

    def function(self, role: Role, platform: str) -> Callable[..., jax.Array]:
        """Computes the role from its operands and the description of the convolution."""
        function = getattr(_MODULES[self.implementation], role.name.lower())
        if self.implementation == "taps":
            # On a GPU the loops that keep strips apart would only be waited for.
            return functools.partial(function, in_strips=platform == "cpu")
        return function


def check_implementation(implementation: Any) -> str | None:
    """Returns the name of an implementation, or ``None`` for the choice of this package."""
    if implementation is None:
        return None
    return _checks.word("implementation", implementation, tuple(_MODULES), "None")


def check_supported(
    implementation: str | None, convolution: Convolution, channels: int, filters: int
) -> None:
    """Raises ``NotImplementedError`` if an implementation asked for by name cannot do it."""
    if implementation is not None:
        why_not = _MODULES[implementation].unsupported(Role.FORWARD, convolution, channels, filters)
        if why_not:
            raise NotImplementedError(f"implementation={implementation!r} cannot: {why_not}")


def choose(
    role: Role,
    convolution: Convolution,
    channels: int,
    filters: int,
    platform: str,
    implementation: str | None = None,
    exported: bool = False,
) -> Choice:
    """Chooses for a platform; an implementation given by name, if it can do it.

    It may not: ``vmap`` over filters makes the groups of a convolution wider.

    Args:
        role: what is to be computed.
        convolution: the static description.
        channels: per group.
        filters: per group.
        platform: ``"cpu"``, ``"cuda"``, ``"rocm"`` or ``"tpu"``.
        implementation: the name of one, or ``None``.
        exported: whether the program is to run elsewhere, where these kernels may not be.

    Raises:
        NotImplementedError: ``"native"`` was asked for where there are no such kernels.
    """
    is_native = platform == "cpu" and not exported
    if implementation == "native" and not is_native:
        place = "an exported program" if exported else f"a program for {platform!r}"
        raise NotImplementedError(
            f"implementation='native' cannot: its kernels are compiled for this machine's CPU, and "
            f"{place} cannot call them"
        )
    if implementation is not None:
        why_not = _MODULES[implementation].unsupported(role, convolution, channels, filters)
        if not why_not:
            return Choice(implementation, "asked for by name")
        instead, reason = choose(role, convolution, channels, filters, platform, exported=exported)
        return Choice(instead, f"{implementation!r} was asked for, but {why_not}; {reason}")
    missing = ""
    if is_native:
        why_not = native.unsupported(role, convolution, channels, filters)
        if not why_not:
            return Choice("native", "compiled for this machine's CPU")
        missing = f" ({why_not})"
    if convolution.groups == 1:
        if platform == "cpu" and _is_better_as_product(role, convolution, channels, filters):
            return Choice("blocks", "a matrix product, which XLA:CPU does not see in a 1x1 filter")
        return Choice("lax", "one group is a dense convolution, which XLA does best")
    can = taps.unsupported(role, convolution, channels, filters) is None
    if platform == "cpu":
        if can and _too_few_for_matrices(role, convolution, channels, filters):
            return Choice(
                "taps", f"{channels} * {filters} weights a tap: too few for matrices{missing}"
            )
        return Choice(
            "blocks", f"{channels} * {filters} weights a tap: enough for matrices{missing}"
        )
    # Not measured yet: what XLA's sources and users' reports support, no more.
    few = channels * filters <= _FEW_ON_GPU
    few = can and few and math.prod(convolution.filter_size) <= _TAPS_ON_GPU
    if platform in ("cuda", "rocm") and few and role != Role.FILTER_GRADIENT:
        return Choice("taps", "bound by memory, and XLA fuses the sum (not measured)")
    return Choice("lax", f"nothing was measured to be faster on {platform}")


def _is_better_as_product(
    role: Role, convolution: Convolution, channels: int, filters: int
) -> bool:
    """Whether a CPU computes one group faster as a matrix product.

    Measured on two x86-64 cores with the 1x1 filters of MobileNetV2 and ResNet-50, 8 images, and
    JAX 0.10.2 (0.12.0): the forward pass takes 0.3 to 0.8 (0.6 to 1.3) of lax's time, the input
    gradient 0.1 to 0.8 (0.5 to 1.4), the filter gradient 0.06 to 1 (0.1 to 0.8). With less than 8
    channels or filters the first two take up to twice lax's time. Sums over channels, in
    the place of products of up to 32 channels or filters, take 0.3 to 0.9 (0.6 to 1.2) and 0.25 to
    0.8 (0.4 to 1.5) of it.
    """
    if not pointwise.suits(convolution):
        return False
    return role == Role.FILTER_GRADIENT or min(channels, filters) >= _FEWEST_OF_PRODUCTS


def _too_few_for_matrices(
    role: Role, convolution: Convolution, channels: int, filters: int
) -> bool:
    """Whether a CPU computes sums over taps, where they serve, faster than block-diagonal products.

    Measured on two x86-64 cores with 8 images of 14x14 to 56x56 pixels in 32 to 256 groups. Forward
    pass and input gradient of up to 16 channels times filters: with 2 * 8, 3 * 5 and 4 * 4, sums
    take 0.2 to 0.9 of the time of blocks for filters of 3x3 to 11x11, with 1 * 16 a fifth to 0.9,
    for volumes a tenth. Along one axis, 0.4 to 0.9 with few weights or terms, 0.4 to 2.3 with more.
    Filter gradients: 0.3 to 0.8 of the time of blocks with less than 16 weights and with 16 * 1,
    0.5 to 1.5 with 1 * 16 (of one image in many groups, 2.3 with 3x3), and 0.7 to 1.6 with 2 * 8,
    8 * 2 and 4 * 4.
    """
    weights = channels * filters
    if role == Role.FILTER_GRADIENT:
        return weights < 16 or filters == 1
    if len(convolution.image) > 1:
        return True
    summed = (channels if role == Role.FORWARD else filters) * math.prod(convolution.filter_size)
    return (weights <= 8 and min(channels, filters) <= 2) or summed <= 72
