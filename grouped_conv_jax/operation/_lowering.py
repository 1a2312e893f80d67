"""The lowering rule that gives marked convolutions of ``jax.lax`` the fast path.

It stands in front of JAX's own rule. A marked equation is matched with a role of a grouped
convolution, an implementation is chosen for the platform, and over several devices each computes
the shard that ``sharding`` plans for it. Everything else goes to JAX's rule.
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
    """What becomes of one equation.

    Attributes:
        match: its role, or ``None`` where it is left to JAX unseen.
        choice: the implementation, and why.
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
    """Decides about an equation.

    Args:
        mark: of the equation, if it has one.
        lhs: the type of the first operand: anything with ``shape`` and ``dtype``.
        rhs: likewise.
        parameters: of the equation.
        platform: where it is to run.
        exported: whether that is another machine.
        devices: over how many XLA will split it.
    """
    if mark is None:
        return Decision(None, Choice("lax", "it is outside of accelerate"))
    if mark == _marks.LAX:
        return Decision(None, Choice("lax", "asked for by name"))
    found = match(lhs, rhs, parameters)
    if isinstance(found, str):
        return Decision(None, Choice("lax", found))
    choice = _choice.choose(
        found.role,
        found.convolution,
        found.channels,
        found.filters,
        _choice.Setting(platform, exported, found.batch, lhs.dtype, devices),
        _name(mark),
    )
    return Decision(found, choice)


def _name(mark: str) -> str | None:
    return None if mark == _marks.CHOOSE else mark


def install() -> None:
    """Puts the rule in front of JAX's own."""
    _jax_internals.chain_in_front_of_convolutions(_lower)


def _lower(original: Callable[..., Any], ctx: Any, *operands: Any, **parameters: Any) -> Any:
    mark = _marks.of(_jax_internals.metadata(ctx))
    platforms = _jax_internals.platforms(ctx)
    # JAX calls the rule for one platform at a time, as its own differ.
    if mark is None or len(platforms) > 1:
        return original(ctx, *operands, **parameters)
    (platform,) = platforms
    name = _name(mark)
    lhs, rhs = ctx.avals_in
    exported = _jax_internals.is_for_export(ctx)
    devices = _jax_internals.devices_to_partition_over(ctx)
    found, choice = decide(mark, lhs, rhs, parameters, platform, exported, devices)
    if found is None:
        return original(ctx, *operands, **parameters)
    if platform == "cpu" and not exported:
        native_library.warn_if_unavailable()
    convolution = found.convolution
    # A program that leaves this process cannot call back into it when it is partitioned.
    sharded = devices > 1 and not exported
    # XLA partitions a dense convolution itself, and better than what would replace it. For TPUs
    # its compilers know no custom partitioning, but what is chosen for them they split as they are.
    planned = sharded and convolution.groups > 1 and platform != "tpu"
    splits = not sharded or name is not None or platform == "tpu"
    if not planned and (choice.implementation == "lax" or not splits):
        return original(ctx, *operands, **parameters)

    compute: Any = functools.partial(
        _execution.compute,
        role=found.role,
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
        return found.result(compute(*found.operands(lhs, rhs)))

    with _marks.no_scope():
        return _jax_internals.lower_plainly(replacement, ctx, *operands)
