"""Which implementation computes a role, for a platform and a shape, and why."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax

from grouped_conv_jax import _checks
from grouped_conv_jax._convolution import Convolution, Role
from grouped_conv_jax._implementations import blocks, lax, taps

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

# Measured on two x86-64 cores at 8x56x56x128, 3x3: with 1 * 2 weights a tap sums take a third of
# the time of blocks, with 4 * 4 as long in the forward pass and three times as long in the filter
# gradient.
_FEW = 4

_MODULES: dict[str, ModuleType] = {"lax": lax, "taps": taps, "blocks": blocks}


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

    @property
    def loops_over_stacks(self) -> bool:
        """Whether operands that are both mapped by ``vmap`` are computed one pair at a time.

        Of a dense convolution of two mapped operands ``vmap`` would make a grouped one of lax's.
        """
        return self.implementation == "blocks"


def check_implementation(implementation: Any) -> str | None:
    """Returns the name of an implementation, or ``None`` for the choice of this package."""
    if implementation is None:
        return None
    return _checks.word("implementation", implementation, tuple(_MODULES), "None")


def choose(
    role: Role,
    convolution: Convolution,
    channels: int,
    filters: int,
    platform: str,
    implementation: str | None = None,
) -> Choice:
    """Chooses for a platform, or checks that an implementation given by name can do it.

    Args:
        role: what is to be computed.
        convolution: the static description.
        channels: per group.
        filters: per group.
        platform: ``"cpu"``, ``"cuda"``, ``"rocm"`` or ``"tpu"``.
        implementation: the name of one, or ``None``.

    Raises:
        NotImplementedError: the implementation given by name cannot do it.
    """
    if implementation is not None:
        why_not = _MODULES[implementation].unsupported(role, convolution, channels, filters)
        if why_not:
            raise NotImplementedError(f"implementation={implementation!r} cannot: {why_not}")
        return Choice(implementation, "asked for by name")
    if convolution.groups == 1:
        return Choice("lax", "one group is a dense convolution, which XLA does best")
    few = channels * filters <= _FEW
    tappable = few and taps.unsupported(role, convolution, channels, filters) is None
    if platform == "cpu":
        if tappable:
            return Choice("taps", f"{channels} * {filters} weights a tap: too few for matrices")
        return Choice("blocks", f"{channels} * {filters} weights a tap: enough for matrices")
    # Not measured yet: what XLA's sources and users' reports support, no more.
    if platform in ("cuda", "rocm") and tappable and role != Role.FILTER_GRADIENT:
        return Choice("taps", "bound by memory, and XLA fuses the sum (not measured)")
    return Choice("lax", f"nothing was measured to be faster on {platform}")
