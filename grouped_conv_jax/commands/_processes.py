"""Several processes that train one network: the first one reads and writes, all compute.

In a single process every function here does nothing but call what it is given.
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
    """Connects this process with the others, before JAX looks for devices.

    Raises:
        CommandError: the others cannot be reached, or have more or fewer devices.
    """
    # SIGTERM is for this package's own handler, which saves.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, processes, process_id)
    # JAX documents none of the errors that a connection may end with.
    except Exception as error:
        raise CommandError(
            f"--coordinator {coordinator}: process {process_id} cannot join: {error}", 1
        ) from error
    check_even(jax.devices())


def check_even(devices: Sequence[jax.Device]) -> None:
    """Raises ``CommandError`` unless all processes have as many of the devices."""
    counts = Counter(device.process_index for device in devices)
    if len(set(counts.values())) > 1:
        raise CommandError(
            "all processes must have as many devices, got "
            + ", ".join(f"{counts[i]} in process {i}" for i in sorted(counts))
        )


def is_first() -> bool:
    """Whether this is the process that reads and writes the run's directory."""
    return jax.process_index() == 0


def from_first(compute: Callable[[], Any]) -> Any:
    """Computes something in the first process alone and returns it in all.

    Args:
        compute: returns what JSON can hold.

    Raises:
        CommandError: the first process raised it, or an ``OSError``.
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
    """The first process's arrays, in all processes; all give trees of the same shapes."""
    return multihost_utils.broadcast_one_to_all(tree)


def together(compute: Callable[[], Result]) -> Result:
    """Computes something in every process, or ends all of them if one fails.

    Raises:
        CommandError: it, or an ``OSError``, was raised here, or in another process.
    """
    try:
        result, failure = compute(), None
    except CommandError as error:
        failure = error
    except OSError as error:
        failure = CommandError(str(error), 1)
    number = highest(failure.exit_status if failure else 0)
    if failure:
        raise failure
    if number:
        raise CommandError("another process failed, and says why", number)
    return result


def highest(number: int) -> int:
    """The largest of the numbers of all processes."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())
