"""Which implementation computes a role, for a platform and a shape, and why."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax

from grouped_conv_jax import _checks
from grouped_conv_jax._convolution import Problem, Role
from grouped_conv_jax._implementations import blocks, lax, onednn, taps

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

# Measured on two x86-64 cores. The figures are times against the next best implementation.
# Depthwise, 3x3 to 7x7: oneDNN takes 0.2 to 0.8 of what sums over taps take, forward and, at stride
# one, in the input gradient; with a stride four times as long, since its phases are not depthwise
# any more. It has no fast kernel for dilated filters larger than this: three times as long.
_LONGEST_DILATED = 15
# With 2 to 4 weights a tap, sums take 0.3 to 0.9 of oneDNN's time, and a third of that of blocks;
# with 8 and more they lose to both.
_FEW = 4

_MODULES: dict[str, ModuleType] = {"lax": lax, "taps": taps, "blocks": blocks, "onednn": onednn}


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
    problem: Problem, platform: str, implementation: str | None = None, *, portable: bool = False
) -> Choice:
    """Chooses for a platform, or checks that an implementation given by name can do it.

    Args:
        problem: what is to be computed.
        platform: ``"cpu"``, ``"cuda"``, ``"rocm"`` or ``"tpu"``.
        implementation: the name of one, or ``None``.
        portable: whether the program may run with another release of JAX, as exported ones do.

    Raises:
        NotImplementedError: the implementation given by name cannot do it.
    """
    if implementation is not None:
        why_not = _MODULES[implementation].unsupported(problem)
        if implementation == "onednn" and portable:
            why_not = "an exported program may run where XLA knows no oneDNN"
        if implementation == "onednn" and platform not in ("cpu", "any"):
            why_not = f"it is for CPUs, not for {platform}"
        if why_not:
            raise NotImplementedError(f"implementation={implementation!r} cannot: {why_not}")
        return Choice(implementation, "asked for by name")
    if problem.convolution.groups == 1:
        return Choice("lax", "one group is a dense convolution, which XLA does best")
    weights = f"{problem.channels} * {problem.filters} weights a tap"
    tappable = problem.products <= _FEW and taps.unsupported(problem) is None
    if platform == "cpu":
        if not portable and _suits_onednn(problem):
            return Choice("onednn", f"{weights}: oneDNN's convolution, which XLA:CPU carries")
        if tappable:
            return Choice("taps", f"{weights}: too few for matrices")
        return Choice("blocks", f"{weights}: enough for matrices")
    # Not measured yet: what XLA's sources and users' reports support, no more.
    if platform in ("cuda", "rocm") and tappable and problem.role != Role.FILTER_GRADIENT:
        return Choice("taps", "bound by memory, and XLA fuses the sum (not measured)")
    return Choice("lax", f"nothing was measured to be faster on {platform}")


def _suits_onednn(problem: Problem) -> bool:
    convolution = problem.convolution
    if onednn.unsupported(problem):
        return False
    if problem.products > 1:
        return problem.products > _FEW
    if max(convolution.dilation) > 1 and max(convolution.effective_filter_size) > _LONGEST_DILATED:
        return False
    return problem.role == Role.FORWARD or max(convolution.strides) == 1
