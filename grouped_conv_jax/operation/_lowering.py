"""The lowering rule that gives marked convolutions of ``jax.lax`` the fast path.

The rule wraps JAX's own. It matches a marked equation with a role of a grouped convolution and
chooses an implementation for the platform. On several devices, each device computes the shard that
``sharding`` plans for it. JAX's own rule lowers everything else.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from grouped_conv_jax.operation import _choice, _execution, _jax_internals, _marks
from grouped_conv_jax.operation._choice import Choice
from grouped_conv_jax.operation._matching import Match, match
from grouped_conv_jax.operation.implementations import native_library
from grouped_conv_jax.operation.sharding import _partitioner


class Decision(NamedTuple):
    """How one equation is lowered.

    Attributes:
        match: the equation as a role of a grouped convolution, or ``None`` if JAX's own rule
            lowers it.
        choice: the implementation, and the reason.
    """

    match: Match | None
    choice: Choice


def decide(
    mark: str | None,
    lhs: Any,
    rhs: Any,
    parameters: Mapping[str, Any],
    platform: str,
    exported: bool = False,
    devices: int = 1,
) -> Decision:
    """Decides how an equation is lowered.

    Args:
        mark: the equation's mark, or ``None``.
        lhs: the type of the first operand: anything with ``shape`` and ``dtype``.
        rhs: the type of the second operand.
        parameters: the equation's parameters.
        platform: the platform that the program runs on.
        exported: whether the program is exported, and may run on another machine.
        devices: the number of devices that XLA partitions the program over.
    """
    if mark is None:
        return Decision(None, Choice("lax", "it is outside of accelerate"))
    if mark == _marks.LAX:
        return Decision(None, Choice("lax", "asked for by name"))
    matched = match(lhs, rhs, parameters)
    if isinstance(matched, str):
        return Decision(None, Choice("lax", matched))
    choice = _choice.choose(
        matched.role,
        matched.convolution,
        matched.channels,
        matched.filters,
        _choice.Setting(platform, exported, matched.batch, lhs.dtype, devices),
        _name(mark),
    )
    return Decision(matched, choice)


def _name(mark: str) -> str | None:
    return None if mark == _marks.CHOOSE else mark


def install() -> None:
    """Installs the rule in front of JAX's own."""
    _jax_internals.chain_in_front_of_convolutions(_lower)


def _lower(original: Callable[..., Any], ctx: Any, *operands: Any, **parameters: Any) -> Any:
    mark = _marks.read(_jax_internals.metadata(ctx))
    platforms = _jax_internals.platforms(ctx)
    # JAX has one rule per platform, and calls each for that platform alone.
    if mark is None or len(platforms) > 1:
        return original(ctx, *operands, **parameters)
    (platform,) = platforms
    name = _name(mark)
    lhs, rhs = ctx.avals_in
    exported = _jax_internals.is_for_export(ctx)
    devices = _jax_internals.devices_to_partition_over(ctx)
    matched, choice = decide(mark, lhs, rhs, parameters, platform, exported, devices)
    if matched is None:
        return original(ctx, *operands, **parameters)
    if platform == "cpu" and not exported:
        native_library.warn_if_unavailable()
    convolution = matched.convolution
    # Custom partitioning calls back into this process, which an exported program cannot do.
    sharded = devices > 1 and not exported
    # XLA partitions a dense convolution better than its replacement. XLA for TPUs has no custom
    # partitioning, but partitions the implementations chosen for TPUs itself.
    planned = sharded and convolution.groups > 1 and platform != "tpu"
    can_partition = not sharded or name is not None or platform == "tpu"
    if not planned and (choice.implementation == "lax" or not can_partition):
        return original(ctx, *operands, **parameters)

    compute: Any = functools.partial(
        _execution.compute,
        role=matched.role,
        convolution=convolution,
        dtype=ctx.avals_out[0].dtype,
        platform=platform,
        implementation=name,
        exported=exported,
        devices=1 if planned else devices,
    )
    if planned:
        ctx = _jax_internals.with_any_devices(ctx)
        compute = _partitioner.partitioned(compute, devices)

    def replacement(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return matched.result(compute(*matched.operands(lhs, rhs)))

    with _marks.no_scope():
        return _jax_internals.lower_plainly(replacement, ctx, *operands)
