"""Fails when the package is not far faster than lax: ``python benchmarks/speed_floor.py``.

Each of five convolutions must take at most half of lax's time. In ``run-1.json`` all of them take
less than a tenth, so that noise does not fail the check. Exits with status 1 if one takes longer.
"""

# ruff: noqa: T201

import sys
from typing import Any

from grouped_conv_jax.benchmarks import contenders, suites, timing
from grouped_conv_jax.operation._description import Role

LEAST_SPEEDUP = 2.0
ROUNDS, BLOCK_SECONDS = 9, 0.05
CASES = {
    "8x28x28x192 k3 depthwise": Role.FORWARD,
    "8x28x28x192 k3 s2 depthwise": Role.INPUT_GRADIENT,
    "8x14x14x384 k3 depthwise": Role.FILTER_GRADIENT,
    "8x56x56x128->128 k3 g32": Role.FORWARD,
    "8x28x28x512->512 k3 s2 g32": Role.INPUT_GRADIENT,
}


def speedup(case: suites.Case, role: Role) -> float:
    """The time of lax over ours, each the lower quartile of blocks that alternate."""
    operands = contenders.random_operands(case, role, "float32")
    ready = []
    for name in ("ours", "lax"):
        record: dict[str, Any] = {}
        contender = contenders.prepare_jax(name, case, role, operands, None)
        ready.append(timing.Ready(record, contender, timing.first_calls(contender)[1]))
    timing.take_blocks(ready, ROUNDS, BLOCK_SECONDS)
    ours, lax = (one.record["milliseconds"] for one in ready)
    ratio = float(lax / ours)
    variant = ready[0].contender.variant
    print(f"{case}, {role.name}: {variant} {ours} ms, lax {lax} ms, {ratio:.1f} times as fast")
    return ratio


def main() -> int:
    """Measures all cases and returns the exit status."""
    known = {str(case): case for case in suites.collect(["mobilenet-v2", "resnext-50-32x4d"])}
    slow = [name for name, role in CASES.items() if speedup(known[name], role) < LEAST_SPEEDUP]
    for name in slow:
        print(f"FAILED {name}: less than {LEAST_SPEEDUP:g} times as fast as lax")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
