"""Times contenders in turns, so that what disturbs the machine disturbs all of them alike."""

import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from grouped_conv_jax.benchmarks.contenders import Contender

# What one turn takes, and how long a contender runs untimed at its start: the others have left
# their data in the caches, the threads of PyTorch look for work for 9 ms, and the system needs a
# while to give each thread a processor. Calls of XLA's take up to twice as long for 10 to 50 ms
# after a turn of PyTorch's or a rest; PyTorch's, whose threads never sleep in between, for 3 ms.
_TURN_SECONDS = 0.02
_SETTLING_SECONDS = 0.05
_MOST_CALLS_A_TURN = 100
_SLOW_SECONDS = 5.0
# Of contenders that take longer, what the very first call sets up is a small part.
_WARM_UP_SECONDS = 15.0
_FEWEST_TURNS = 2


class Ready(NamedTuple):
    """A contender that may be timed, with its record and about how long a call takes."""

    record: dict[str, Any]
    contender: Contender
    seconds: float


def first_calls(contender: Contender) -> tuple[Any, float]:
    """Warms a contender up; returns its result and about how long a call takes."""
    result, seconds = _call(contender)
    if seconds < _WARM_UP_SECONDS:
        # The very first call also sets things up.
        _, seconds = _call(contender)
    return result, seconds


def take_turns(ready: Sequence[Ready], repeats: int, budget: float) -> None:
    """Times all contenders and adds the median of its turns to the record of each.

    Args:
        ready: what to time.
        repeats: how many turns each takes.
        budget: seconds after which a contender takes no more turns, two apart.
    """
    counts = [
        min(repeats, max(_FEWEST_TURNS, int(budget / max(_TURN_SECONDS, one.seconds))))
        for one in ready
    ]
    times: list[list[float]] = [[] for _ in ready]
    for turn in range(repeats):
        for one, count, own in zip(ready, counts, times, strict=True):
            # Those with few turns take them spread over the turns of the others.
            if turn * count // repeats != (turn - 1) * count // repeats:
                own.append(_take_turn(one))
    for one, own in zip(ready, times, strict=True):
        one.record["milliseconds"] = rounded(1e3 * statistics.median(own))
        one.record["turns"] = [rounded(1e3 * seconds) for seconds in own]


def _take_turn(ready: Ready) -> float:
    """The seconds of a call, from as many as fit into a turn."""
    contender = ready.contender
    unsettled = _SETTLING_SECONDS if ready.seconds < _SLOW_SECONDS else 0.0
    while unsettled > 0:
        unsettled -= _call(contender)[1]
    calls = max(1, min(_MOST_CALLS_A_TURN, int(_TURN_SECONDS / ready.seconds)))
    if not contender.queued:
        return statistics.median(_call(contender)[1] for _ in range(calls))
    start = time.perf_counter()
    for _ in range(calls):
        result = contender.run()
    contender.wait(result)
    return (time.perf_counter() - start) / calls


def _call(contender: Contender) -> tuple[Any, float]:
    start = time.perf_counter()
    result = contender.run()
    contender.wait(result)
    return result, time.perf_counter() - start


def rounded(number: float) -> float:
    """Four digits, which is more than a measurement has."""
    return float(f"{number:.4g}")


def describe(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
