"""Which implementation computes a role, for a platform and a shape, and why."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax

from grouped_conv_jax import _checks
from grouped_conv_jax._convolution import Convolution, Role
from grouped_conv_jax._implementations import blocks, lax, native, pointwise, taps

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

# Depthwise filters of up to 7x7 are bound by memory on a GPU (not measured).
_FEW_ON_GPU, _TAPS_ON_GPU = 4, 49
# Channels or filters of a group below which sums over taps beat matrix products on CPU.
_NARROW = 4
# From so many filters a channel on, lax's forward pass takes 0.1 to 1 of the time of sums and of
# blocks, which would be mostly zeros (1 * 16, 1 * 32); with 3 * 24 two to five times as long.
_FILTERS_A_CHANNEL = 16
# Matrix products of 1x1 filters with fewer channels or filters take up to twice lax's time.
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

    def function(self, role: Role) -> Callable[..., jax.Array]:
        """Computes the role from its operands and the description of the convolution."""
        return getattr(_MODULES[self.implementation], role.name.lower())


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
        weights = f"{channels} * {filters} weights a tap{missing}"
        if role == Role.FORWARD and filters >= _FILTERS_A_CHANNEL * channels:
            return Choice("lax", f"{weights}: enough filters a channel for lax's products")
        if can and min(channels, filters) < _NARROW:
            return Choice("taps", f"{weights}: too few for matrices")
        return Choice("blocks", f"{weights}: enough for matrices, a few groups at a time")
    few = channels * filters <= _FEW_ON_GPU
    few = can and few and math.prod(convolution.filter_size) <= _TAPS_ON_GPU
    if platform in ("cuda", "rocm") and few and role != Role.FILTER_GRADIENT:
        return Choice("taps", "bound by memory, and XLA fuses the sum (not measured)")
    return Choice("lax", f"nothing was measured to be faster on {platform}")


def _is_better_as_product(
    role: Role, convolution: Convolution, channels: int, filters: int
) -> bool:
    """Whether a CPU computes one group faster as a matrix product."""
    wide = role == Role.FILTER_GRADIENT or min(channels, filters) >= _FEWEST_OF_PRODUCTS
    return pointwise.suits(convolution) and wide
