"""Chooses the implementation that computes a role, by platform and shape, and gives the reason."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from grouped_conv_jax import _checks
from grouped_conv_jax.operation._description import Convolution, Role, is_known
from grouped_conv_jax.operation.implementations import (
    REGISTRY,
    lane_tiles,
    native_kernels,
    pointwise,
    shift_and_add,
)

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

# Small depthwise filters are memory-bound on GPUs. Not measured.
_MAX_WEIGHTS_PER_TAP_ON_GPU, _MAX_TAPS_ON_GPU = 4, 49

# On CPUs, measured on a 2-core Xeon with AVX-512, JAX 0.10.0.
# With fewer channels or filters per group, sums over taps beat matrix products.
_MIN_WIDTH_OF_BLOCKS = 4
# With at least this many filters per channel, blocks would be mostly zeros and lax's forward pass
# is faster (1 * 16, 1 * 32, but not 3 * 24).
_MANY_FILTERS_PER_CHANNEL = 16
# With fewer channels or filters, a matrix product is slower than lax's 1x1 convolution.
_MIN_WIDTH_OF_PRODUCTS = 8

# On TPUs: v5e, estimated by its compiler, JAX 0.12.0.1; see benchmarks/.
# In larger batches XLA lays the batch along the lanes, and lax fills them.
_MAX_BATCH = 64
# With fewer pixels, the larger filters cost more than the fuller lanes save.
_MIN_PIXELS = 128
# In float32, groups wider than the first number gain in batches of at least the second. In smaller
# batches they gain only with enough pixels per image, lanes per tile and, for 1x1 filters, results
# per group.
_NARROW_IN_FLOAT32, _LARGE_BATCH_IN_FLOAT32 = 8, 32
_MIN_PIXELS_IN_FLOAT32, _MIN_LANES_IN_FLOAT32, _MIN_RESULTS_IN_FLOAT32 = 256, 64, 32
# Blocks that straddle tiles move channels between lanes; only groups this narrow gain regardless.
_NARROW_IN_ANY_BLOCK = 4
# Filter gradients of wider groups are as fast without merging.
_MAX_WIDTH_OF_FILTER_GRADIENTS = 32

_ONE_GROUP = "one group is a dense convolution, which XLA does best"


class Setting(NamedTuple):
    """The program that a role is part of.

    Attributes:
        platform: ``"cpu"``, ``"cuda"``, ``"rocm"`` or ``"tpu"``.
        exported: whether the program is exported, and may run where the native kernels are missing.
        batch: the number of images on all devices together, or a symbolic dimension.
        dtype: the dtype of the operands.
        devices: the number of devices that XLA partitions the program over. Which axes it
            partitions is unknown.
    """

    platform: str
    exported: bool
    batch: Any
    dtype: DTypeLike
    devices: int = 1


class Choice(NamedTuple):
    """An implementation of one role.

    Attributes:
        implementation: the implementation's name.
        reason: why it was chosen.
    """

    implementation: str
    reason: str

    def function(self, role: Role, platform: str, devices: int = 1) -> Callable[..., jax.Array]:
        """Returns the function that computes the role from its operands and the convolution."""
        name = role.name.lower()
        if self.implementation == "blocks" and platform != "cpu":
            # Only CPUs are slow at several groups in one convolution.
            return functools.partial(getattr(lane_tiles, name), devices=devices)
        return getattr(REGISTRY[self.implementation], name)


def check_implementation(implementation: Any) -> str | None:
    """Returns the name of an implementation, or ``None``; raises if there is no such name."""
    if implementation is None:
        return None
    return _checks.word("implementation", implementation, tuple(REGISTRY), "None")


def check_supported(
    implementation: str | None, convolution: Convolution, channels: int, filters: int
) -> None:
    """Raises ``NotImplementedError`` if the named implementation cannot compute a forward pass."""
    if implementation is not None:
        why_not = REGISTRY[implementation].unsupported(Role.FORWARD, convolution, channels, filters)
        if why_not:
            raise NotImplementedError(f"implementation={implementation!r} cannot: {why_not}")


def choose(
    role: Role,
    convolution: Convolution,
    channels: int,
    filters: int,
    setting: Setting,
    implementation: str | None = None,
) -> Choice:
    """Chooses an implementation.

    A named implementation is chosen if it supports the role. It may not support it even after
    :func:`check_supported`, since ``vmap`` over filters makes the groups of a convolution wider.

    Args:
        role: the role to compute.
        convolution: the static description.
        channels: channels per group.
        filters: filters per group.
        setting: the program that the role is part of.
        implementation: the name of an implementation, or ``None``.

    Raises:
        NotImplementedError: ``implementation`` is ``"native"`` and the program cannot call it.
    """
    platform, exported, *_ = setting
    is_native = platform == "cpu" and not exported
    if implementation == "native" and not is_native:
        place = "an exported program" if exported else f"a program for {platform!r}"
        raise NotImplementedError(
            f"implementation='native' cannot: its kernels are compiled for this machine's CPU, and "
            f"{place} cannot call them"
        )
    if implementation is not None:
        why_not = REGISTRY[implementation].unsupported(role, convolution, channels, filters)
        if not why_not:
            return Choice(implementation, "asked for by name")
        instead, reason = choose(role, convolution, channels, filters, setting)
        return Choice(instead, f"{implementation!r} was asked for, but {why_not}; {reason}")
    if platform == "cpu":
        return _for_cpu(role, convolution, channels, filters, exported)
    if convolution.groups == 1:
        return Choice("lax", _ONE_GROUP)
    if platform == "tpu":
        return _for_tpu(role, convolution, channels, filters, setting)
    few = channels * filters <= _MAX_WEIGHTS_PER_TAP_ON_GPU
    few = few and shift_and_add.unsupported(role, convolution, channels, filters) is None
    if (
        few
        and math.prod(convolution.filter_size) <= _MAX_TAPS_ON_GPU
        and role != Role.FILTER_GRADIENT
    ):
        return Choice("taps", "memory-bound, and XLA fuses the sum (not measured)")
    return Choice("lax", f"nothing was measured to be faster on {platform}")


def _for_cpu(
    role: Role, convolution: Convolution, channels: int, filters: int, exported: bool
) -> Choice:
    missing = ""
    if not exported:
        why_not = native_kernels.unsupported(role, convolution, channels, filters)
        if not why_not:
            return Choice("native", "compiled for this machine's CPU")
        missing = f" ({why_not})"
    if convolution.groups == 1:
        if _is_better_as_product(role, convolution, channels, filters):
            return Choice("blocks", "a matrix product, to which XLA:CPU fails to lower 1x1 filters")
        return Choice("lax", _ONE_GROUP)
    weights = f"{channels} * {filters} weights per tap{missing}"
    if role == Role.FORWARD and filters >= _MANY_FILTERS_PER_CHANNEL * channels:
        return Choice("lax", f"{weights}: enough filters per channel for lax")
    can_sum = shift_and_add.unsupported(role, convolution, channels, filters) is None
    if can_sum and min(channels, filters) < _MIN_WIDTH_OF_BLOCKS:
        return Choice("taps", f"{weights}: too few for matrix products")
    return Choice("blocks", f"{weights}: enough for matrix products of a few groups each")


def _is_better_as_product(
    role: Role, convolution: Convolution, channels: int, filters: int
) -> bool:
    """Whether a CPU computes a dense convolution faster as a matrix product."""
    wide = role == Role.FILTER_GRADIENT or min(channels, filters) >= _MIN_WIDTH_OF_PRODUCTS
    return pointwise.suits(convolution) and wide


def _for_tpu(
    role: Role, convolution: Convolution, channels: int, filters: int, setting: Setting
) -> Choice:
    batch, devices = setting.batch, setting.devices
    images = batch // devices if is_known(batch) else None
    basis = "estimated" if devices == 1 else "estimated; the batch per device is assumed"
    merged = lane_tiles.count(convolution, channels, filters, devices)
    why_not = _why_lax_is_better_on_tpu(
        role, convolution, channels, filters, setting.dtype, images, merged
    )
    if why_not:
        return Choice("lax", f"{why_not} ({basis})")
    lanes = merged * max(channels, filters)
    return Choice("blocks", f"{merged} groups fill {lanes} lanes together ({basis})")


def _why_lax_is_better_on_tpu(
    role: Role,
    convolution: Convolution,
    channels: int,
    filters: int,
    dtype: DTypeLike,
    images: int | None,
    merged: int,
) -> str | None:
    """Why lax computes a role faster than blocks of ``merged`` groups, or ``None``.

    Args:
        role: the role to compute.
        convolution: the static description.
        channels: channels per group.
        filters: filters per group.
        dtype: the dtype of the operands.
        images: the number of images per device, or ``None`` if unknown.
        merged: the number of groups per block.
    """
    groups, narrowest, widest = convolution.groups, *sorted((channels, filters))
    pixels = math.prod(convolution.outputs)
    # The number of products summed per pixel and tap.
    summed = {Role.FORWARD: channels, Role.INPUT_GRADIENT: filters}.get(role, widest)
    if summed == 1:
        return "a sum of single products, for which XLA has a dedicated form"
    if images is None:
        return "the batch is not known"
    if images > _MAX_BATCH:
        return f"more than {_MAX_BATCH} images per device fill the lanes already"
    if merged == 1:
        return f"groups of {widest} channels or filters are too wide to share a lane tile"
    if pixels < _MIN_PIXELS:
        return f"fewer than {_MIN_PIXELS} pixels do not amortize larger filters"
    lanes = merged * widest
    aligned = merged == groups or (lanes % 64 == 0 and lanes <= lane_tiles.LANES)
    if not aligned and widest > _NARROW_IN_ANY_BLOCK:
        return f"{groups} groups divide into blocks of {lanes} lanes, which straddle lane tiles"
    if role == Role.FILTER_GRADIENT and narrowest > _MAX_WIDTH_OF_FILTER_GRADIENTS:
        return (
            f"filter gradients wider than {_MAX_WIDTH_OF_FILTER_GRADIENTS} are fast without merging"
        )
    wide = jnp.dtype(dtype) == jnp.float32 and widest > _NARROW_IN_FLOAT32
    if wide and images < _LARGE_BATCH_IN_FLOAT32:
        results = {Role.FORWARD: filters, Role.INPUT_GRADIENT: channels}.get(role, narrowest)
        few = pointwise.suits(convolution) and results < _MIN_RESULTS_IN_FLOAT32
        if few or pixels < _MIN_PIXELS_IN_FLOAT32 or lanes < _MIN_LANES_IN_FLOAT32:
            return f"fewer than {_LARGE_BATCH_IN_FLOAT32} images of this size suit lax in float32"
    return None
