"""Progress of the measurements: a bar on a terminal, lines otherwise."""

import sys
from typing import Any, Self, TextIO


class Progress:
    """Shows the progress of a number of measurements.

    Args:
        total: number of measurements.
        stream: stream to write to; standard error by default, which leaves standard output to the
            tables.
    """

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._total, self._done = total, 0
        self._stream = stream or sys.stderr
        self._bar: Any = _bar(total, self._stream) if self._stream.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, name: str) -> None:
        """Shows the name of the current measurement."""
        if self._bar is not None:
            self._bar.set_postfix_str(name)

    def finish(self, line: str) -> None:
        """Counts a measurement; prints its result if there is no bar."""
        self._done += 1
        if self._bar is not None:
            self._bar.update()
        else:
            place = f"[{self._done:{len(str(self._total))}}/{self._total}]"
            self._stream.write(f"{place} {line}\n")
            self._stream.flush()


def _bar(total: int, stream: TextIO) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        stream.write(
            "no progress bar, since tqdm is missing; install it with: "
            'pip install "grouped_conv_jax[train]"\n'
        )
        return None
    return tqdm(total=total, unit="measurement", file=stream, dynamic_ncols=True)
