"""Ctrl-C, heard without tearing a step apart."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Lets Ctrl-C wait until it is asked for; a second one acts at once.

    An exception out of nowhere would also leave JAX, in the middle of a compilation, in a state in
    which the interpreter crashes when it ends.

    Yields:
        A function that tells whether there was one.
    """
    received = threading.Event()

    def remember(number: int, frame: FrameType | None) -> None:
        if received.is_set():
            signal.default_int_handler(number, frame)
        received.set()

    if threading.current_thread() is not threading.main_thread():
        # Only the main thread hears signals.
        yield received.is_set
        return
    before = signal.signal(signal.SIGINT, remember)
    try:
        yield received.is_set
    finally:
        signal.signal(signal.SIGINT, before)
