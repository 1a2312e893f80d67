"""Coordination of several processes that train one network.

All processes compute; the first one alone reads and writes the run's directory. In a single process
these functions only call their argument.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from grouped_conv_jax.commands._errors import CommandError

Result = TypeVar("Result")


def join(coordinator: str, processes: int, process_id: int) -> None:
    """Connects this process with the others; call it before JAX initializes its devices.

    Raises:
        CommandError: the connection fails, or the processes have different numbers of devices.
    """
    # Leave SIGTERM to this package's handler, which saves the run.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, processes, process_id)
    # JAX does not document which errors it raises.
    except Exception as error:
        raise CommandError(
            f"--coordinator {coordinator}: process {process_id} cannot join: {error}", 1
        ) from error
    check_even(jax.devices())


def check_even(devices: Sequence[jax.Device]) -> None:
    """Raises ``CommandError`` unless all processes have the same number of devices."""
    counts = Counter(device.process_index for device in devices)
    if len(set(counts.values())) > 1:
        raise CommandError(
            "all processes must have the same number of devices, got "
            + ", ".join(f"{counts[i]} in process {i}" for i in sorted(counts))
        )


def is_first() -> bool:
    """Returns whether this process reads and writes the run's directory."""
    return jax.process_index() == 0


def from_first(compute: Callable[[], Any]) -> Any:
    """Calls a function in the first process and returns its result in all processes.

    Args:
        compute: a function that returns a JSON-serializable value.

    Raises:
        CommandError: the function raises it, or an ``OSError``.
    """
    if jax.process_count() == 1:
        return compute()
    answer: dict[str, Any] = {}
    if is_first():
        try:
            answer = {"result": compute()}
        except CommandError as error:
            answer = {"error": str(error), "exit_status": error.exit_status}
        except OSError as error:
            answer = {"error": str(error), "exit_status": 1}
    content = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    content = multihost_utils.broadcast_one_to_all(np.resize(content, length))
    answer = json.loads(content.tobytes())
    if "error" in answer:
        raise CommandError(answer["error"], answer["exit_status"])
    return answer["result"]


def arrays_from_first(tree: Result) -> Result:
    """Returns the arrays of the first process; all processes must pass trees of equal shapes."""
    return multihost_utils.broadcast_one_to_all(tree)


def in_all(compute: Callable[[], Result]) -> Result:
    """Calls a function in every process; raises in all of them if one fails.

    Raises:
        CommandError: the function raises it, or an ``OSError``, in this or another process.
    """
    try:
        result, failure = compute(), None
    except CommandError as error:
        failure = error
    except OSError as error:
        failure = CommandError(str(error), 1)
    exit_status = maximum(failure.exit_status if failure else 0)
    if failure:
        raise failure
    if exit_status:
        raise CommandError("another process failed; it reports the reason", exit_status)
    return result


def maximum(number: int) -> int:
    """Returns the maximum of a number over all processes."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())
