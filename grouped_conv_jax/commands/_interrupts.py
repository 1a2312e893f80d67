"""Ctrl-C and SIGTERM, heard without tearing a step apart."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], int]]:
    """Lets both wait until they are asked for; a second one acts at once.

    An exception out of nowhere would also leave JAX, in the middle of a compilation, in a state in
    which the interpreter crashes when it ends.

    Yields:
        A function that returns the number of the signal, or 0.
    """
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if received:
            signal.default_int_handler(number, frame)
        received.append(number)

    def first() -> int:
        return received[0] if received else 0

    if threading.current_thread() is not threading.main_thread():
        # Only the main thread hears signals.
        yield first
        return
    before = {number: signal.signal(number, remember) for number in _SIGNALS}
    try:
        yield first
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
