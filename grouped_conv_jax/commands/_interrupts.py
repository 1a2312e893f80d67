"""Deferred handling of Ctrl-C and SIGTERM."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], int]]:
    """Records the first SIGINT or SIGTERM instead of raising; a second signal raises at once.

    Deferring keeps steps whole. An exception during a compilation also leaves JAX in a state that
    crashes the interpreter on exit.

    Yields:
        A function that returns the number of the recorded signal, or 0.
    """
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if received:
            signal.default_int_handler(number, frame)
        received.append(number)

    def first() -> int:
        return received[0] if received else 0

    if threading.current_thread() is not threading.main_thread():
        # Only the main thread can handle signals.
        yield first
        return
    before = {number: signal.signal(number, remember) for number in _SIGNALS}
    try:
        yield first
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
