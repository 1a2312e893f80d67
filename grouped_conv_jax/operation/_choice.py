"""Which implementation computes a role, for a platform and a shape, and why."""

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

# Depthwise filters of up to 7x7 are bound by memory on a GPU (not measured).
_FEW_ON_GPU, _TAPS_ON_GPU = 4, 49
# Channels or filters of a group below which sums over taps beat matrix products on CPU.
_NARROW = 4
# From so many filters a channel on, lax's forward pass takes 0.1 to 1 of the time of sums and of
# blocks, which would be mostly zeros (1 * 16, 1 * 32); with 3 * 24 two to five times as long.
_FILTERS_A_CHANNEL = 16
# Matrix products of 1x1 filters with fewer channels or filters take up to twice lax's time.
_FEWEST_OF_PRODUCTS = 8

# On TPU, by the estimates for v5e in benchmarks/. lax's time is the same for all smaller batches,
# since XLA then lays the batch along the lanes.
_LARGEST_BATCH = 64
# Filters meet fewer pixels too rarely: the time goes into the filters themselves.
_FEWEST_PIXELS = 128
# In float32 groups wider than this gain in batches of so many images on; in smaller ones only with
# so many pixels an image, in tiles half full or more, and 1x1 filters with so many results a group.
_NARROW_IN_FLOAT32, _LARGE_BATCH_IN_FLOAT32 = 8, 32
_FEWEST_PIXELS_IN_FLOAT32, _FEWEST_LANES_IN_FLOAT32, _FEWEST_RESULTS_IN_FLOAT32 = 256, 64, 32
# Blocks that straddle tiles move channels between lanes; groups this narrow gain all the same.
_NARROW_IN_ANY_BLOCK = 4
# Wider groups make filter gradients as fast on their own.
_WIDEST_OF_FILTER_GRADIENTS = 32

_ONE_GROUP = "one group is a dense convolution, which XLA does best"


class Setting(NamedTuple):
    """Where a role is computed, and of how much.

    Attributes:
        platform: ``"cpu"``, ``"cuda"``, ``"rocm"`` or ``"tpu"``.
        exported: whether the program is to run elsewhere, where the native kernels may not be.
        batch: number of images on all devices, or a symbol.
        dtype: of the operands.
        devices: over how many XLA splits the program; how, it does not tell.
    """

    platform: str
    exported: bool
    batch: Any
    dtype: DTypeLike
    devices: int = 1


class Choice(NamedTuple):
    """An implementation of one role.

    Attributes:
        implementation: its name.
        reason: why it was chosen.
    """

    implementation: str
    reason: str

    def function(self, role: Role, platform: str, devices: int = 1) -> Callable[..., jax.Array]:
        """Computes the role from its operands and the description of the convolution."""
        name = role.name.lower()
        if self.implementation == "blocks" and platform != "cpu":
            # Several groups in one convolution are slow on CPUs alone.
            return functools.partial(getattr(lane_tiles, name), devices=devices)
        return getattr(REGISTRY[self.implementation], name)


def check_implementation(implementation: Any) -> str | None:
    """Returns the name of an implementation, or ``None`` for the choice of this package."""
    if implementation is None:
        return None
    return _checks.word("implementation", implementation, tuple(REGISTRY), "None")


def check_supported(
    implementation: str | None, convolution: Convolution, channels: int, filters: int
) -> None:
    """Raises ``NotImplementedError`` if an implementation asked for by name cannot do it."""
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
    """Chooses for a setting; an implementation given by name, if it can do it.

    It may not: ``vmap`` over filters makes the groups of a convolution wider.

    Args:
        role: what is to be computed.
        convolution: the static description.
        channels: per group.
        filters: per group.
        setting: where, and of how much.
        implementation: the name of one, or ``None``.

    Raises:
        NotImplementedError: ``"native"`` was asked for where there are no such kernels.
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
    few = channels * filters <= _FEW_ON_GPU
    few = few and shift_and_add.unsupported(role, convolution, channels, filters) is None
    if few and math.prod(convolution.filter_size) <= _TAPS_ON_GPU and role != Role.FILTER_GRADIENT:
        return Choice("taps", "bound by memory, and XLA fuses the sum (not measured)")
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
            return Choice("blocks", "a matrix product, which XLA:CPU does not see in a 1x1 filter")
        return Choice("lax", _ONE_GROUP)
    weights = f"{channels} * {filters} weights a tap{missing}"
    if role == Role.FORWARD and filters >= _FILTERS_A_CHANNEL * channels:
        return Choice("lax", f"{weights}: enough filters a channel for lax's products")
    can = shift_and_add.unsupported(role, convolution, channels, filters) is None
    if can and min(channels, filters) < _NARROW:
        return Choice("taps", f"{weights}: too few for matrices")
    return Choice("blocks", f"{weights}: enough for matrices, a few groups at a time")


def _is_better_as_product(
    role: Role, convolution: Convolution, channels: int, filters: int
) -> bool:
    """Whether a CPU computes one group faster as a matrix product."""
    wide = role == Role.FILTER_GRADIENT or min(channels, filters) >= _FEWEST_OF_PRODUCTS
    return pointwise.suits(convolution) and wide


def _for_tpu(
    role: Role, convolution: Convolution, channels: int, filters: int, setting: Setting
) -> Choice:
    batch, devices = setting.batch, setting.devices
    images = batch // devices if is_known(batch) else None
    basis = "estimated" if devices == 1 else "estimated; the batch per device is assumed"
    merged = lane_tiles.count(convolution, channels, filters, devices)
    why_not = _lax_is_better_on_tpu(
        role, convolution, channels, filters, setting.dtype, images, merged
    )
    if why_not:
        return Choice("lax", f"{why_not} ({basis})")
    lanes = merged * max(channels, filters)
    return Choice("blocks", f"{merged} groups fill {lanes} lanes together ({basis})")


def _lax_is_better_on_tpu(
    role: Role,
    convolution: Convolution,
    channels: int,
    filters: int,
    dtype: DTypeLike,
    images: int | None,
    merged: int,
) -> str | None:
    """Why lax computes a role faster than ``merged`` groups in a block, or ``None``.

    Args:
        role: what is to be computed.
        convolution: the static description.
        channels: per group.
        filters: per group.
        dtype: of the operands.
        images: on each device, or ``None`` if that is not known.
        merged: groups in a block.
    """
    groups, narrowest, widest = convolution.groups, *sorted((channels, filters))
    pixels = math.prod(convolution.outputs)
    # How many products are summed for each pixel and tap.
    summed = {Role.FORWARD: channels, Role.INPUT_GRADIENT: filters}.get(role, widest)
    if summed == 1:
        return "a sum of single products has a form of its own"
    if images is None:
        return "the batch is not known"
    if images > _LARGEST_BATCH:
        return f"more than {_LARGEST_BATCH} images a device fill the lanes on their own"
    if merged == 1:
        return f"groups of {widest} channels or filters fit into no lane tile together"
    if pixels < _FEWEST_PIXELS:
        return f"fewer than {_FEWEST_PIXELS} pixels do not repay larger filters"
    lanes = merged * widest
    aligned = merged == groups or (lanes % 64 == 0 and lanes <= lane_tiles.LANES)
    if not aligned and widest > _NARROW_IN_ANY_BLOCK:
        return f"{groups} groups divide into blocks of {lanes} lanes, which tiles do not hold"
    if role == Role.FILTER_GRADIENT and narrowest > _WIDEST_OF_FILTER_GRADIENTS:
        return f"filter gradients of more than {_WIDEST_OF_FILTER_GRADIENTS} channels are products"
    wide = jnp.dtype(dtype) == jnp.float32 and widest > _NARROW_IN_FLOAT32
    if wide and images < _LARGE_BATCH_IN_FLOAT32:
        results = {Role.FORWARD: filters, Role.INPUT_GRADIENT: channels}.get(role, narrowest)
        few = pointwise.suits(convolution) and results < _FEWEST_RESULTS_IN_FLOAT32
        if few or pixels < _FEWEST_PIXELS_IN_FLOAT32 or lanes < _FEWEST_LANES_IN_FLOAT32:
            return f"fewer than {_LARGE_BATCH_IN_FLOAT32} images of this kind suit lax in float32"
    return None
