"""Times contenders in alternating blocks, so that disturbances affect all of them equally."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from grouped_conv_jax.benchmarks.contenders import Contender

# Pause between contenders: PyTorch's threads spin for 9 ms after a call and occupy the cores.
_PAUSE_SECONDS = 0.02
_WARM_UP_CALLS = 2
# Duration and largest number of calls of one measurement on a device with a queue.
_QUEUE_SECONDS = 0.02
_LONGEST_QUEUE = 100
# The setup in the first call is negligible for contenders that take longer than this.
_LONG_SECONDS = 15.0


class Ready(NamedTuple):
    """A contender to time, with its record and the approximate seconds per call."""

    record: dict[str, Any]
    contender: Contender
    seconds: float


class Block(NamedTuple):
    """Back-to-back calls of one contender.

    Attributes:
        times: seconds of each call; on a device with a queue, averages over several calls.
        calls: number of calls.
        page_faults: page faults of the process during the block, or ``None`` if unknown.
        system_seconds: system time of the process during the block, or ``None`` if unknown.
    """

    times: list[float]
    calls: int
    page_faults: int | None
    system_seconds: float | None


def first_calls(contender: Contender) -> tuple[Any, float]:
    """Warms up a contender; returns its result and the approximate seconds per call."""
    result, seconds = _call(contender)
    if seconds < _LONG_SECONDS:
        # Exclude the setup in the first call.
        _, seconds = _call(contender)
    return result, seconds


def take_blocks(ready: Sequence[Ready], rounds: int, seconds: float) -> None:
    """Times the contenders and adds the results to their records.

    Args:
        ready: the contenders.
        rounds: number of blocks per contender.
        seconds: duration of a block; a block has at least one call.
    """
    blocks: list[list[Block]] = [[] for _ in ready]
    for _ in range(rounds):
        for one, own in zip(ready, blocks, strict=True):
            own.append(_take_block(one, seconds))
    for one, own in zip(ready, blocks, strict=True):
        one.record.update(_summary(own))


def _take_block(ready: Ready, seconds: float) -> Block:
    contender = ready.contender
    time.sleep(_PAUSE_SECONDS)
    if ready.seconds < seconds:
        for _ in range(_WARM_UP_CALLS):
            _call(contender)
    queue = min(_LONGEST_QUEUE, int(_QUEUE_SECONDS / ready.seconds)) if contender.queued else 1
    count = max(1, queue)
    before = _usage()
    times: list[float] = []
    left = seconds
    while not times or left > 0:
        times.append(_call(contender, count)[1])
        left -= count * times[-1]
    after = _usage()
    used = (after[0] - before[0], after[1] - before[1]) if before and after else (None, None)
    return Block(times, count * len(times), *used)


def _summary(blocks: Sequence[Block]) -> dict[str, Any]:
    """Returns the lower quartile of all calls and of each block, and page faults per call."""
    calls = sum(block.calls for block in blocks)
    faults = [block.page_faults for block in blocks if block.page_faults is not None]
    system = [block.system_seconds for block in blocks if block.system_seconds is not None]
    return {
        "milliseconds": _lower_quartile([s for block in blocks for s in block.times]),
        "blocks": [_lower_quartile(block.times) for block in blocks],
        "page_faults": rounded(sum(faults) / calls) if faults else None,
        "system_milliseconds": rounded(1e3 * sum(system) / calls) if system else None,
    }


def _lower_quartile(seconds: Sequence[float]) -> float:
    return rounded(1e3 * float(np.quantile(seconds, 0.25)))


def _call(contender: Contender, count: int = 1) -> tuple[Any, float]:
    """Calls a contender repeatedly; returns the last result and the seconds per call."""
    start = time.perf_counter()
    for _ in range(count):
        result = contender.run()
    contender.wait(result)
    return result, (time.perf_counter() - start) / count


def _usage() -> tuple[int, float] | None:
    """Returns the page faults and system seconds of this process so far; ``None`` on Windows."""
    try:
        import resource
    except ImportError:
        return None
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt, usage.ru_stime


def rounded(number: float) -> float:
    """Rounds a measured number to four significant digits."""
    return float(f"{number:.4g}")


def describe(error: Exception) -> str:
    """Returns the type of an error and the first line of its message."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
