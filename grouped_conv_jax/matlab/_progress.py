"""The progress table of a training."""

import math
import time

_COLUMNS = (
    ("  Epoch  ", "         "),
    ("  Iteration  ", "             "),
    ("  Time Elapsed  ", "   (hh:mm:ss)   "),
    ("  Mini-batch  ", "   Accuracy   "),
    ("  Validation  ", "   Accuracy   "),
    ("  Mini-batch  ", "     Loss     "),
    ("  Validation  ", "     Loss     "),
    ("  Base Learning  ", "      Rate       "),
)


class Progress:
    """Prints training progress in MATLAB's format.

    Args:
        verbose: whether to print anything.
        validates: whether to show validation columns.
    """

    def __init__(self, verbose: bool, validates: bool) -> None:
        self._verbose = verbose
        self._validates = validates
        self._start = time.monotonic()

    def begin(self) -> None:
        """Prints the header."""
        self._print_rule()
        for line in zip(*_COLUMNS, strict=True):
            self._print_cells(line)
        self._print_rule()

    def line(self, epoch: int, iteration: int, row: dict[str, float]) -> None:
        """Prints one iteration; ``row`` has the keys of `TrainedNetwork.info`."""
        seconds = int(time.monotonic() - self._start)
        elapsed = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        self._print_cells(
            (
                f" {epoch:>7} ",
                f" {iteration:>11} ",
                f" {elapsed:>14} ",
                f" {row['TrainingAccuracy']:>11.2f}% ",
                _validated(row["ValidationAccuracy"], ".2f", "%"),
                f" {row['TrainingLoss']:>12.4f} ",
                _validated(row["ValidationLoss"], ".4f"),
                f" {_rate(row['BaseLearnRate']):>15} ",
            )
        )

    def end(self) -> None:
        """Prints the footer."""
        self._print_rule()
        self._print("Training finished: Max epochs completed.")

    def _print_rule(self) -> None:
        width = sum(len(head) + 1 for head in self._shown([head for head, _ in _COLUMNS])) - 1
        self._print(f"|{'=' * width}|")

    def _print_cells(self, cells: tuple[str, ...]) -> None:
        self._print(f"|{'|'.join(self._shown(list(cells)))}|")

    def _shown(self, cells: list[str]) -> list[str]:
        return cells if self._validates else [c for i, c in enumerate(cells) if i not in (4, 6)]

    def _print(self, line: str) -> None:
        if self._verbose:
            print(line, flush=True)


def _rate(value: float) -> str:
    return f"{value:.4f}" if value >= 0.001 else f"{value:.4e}"


def _validated(value: float, spec: str, unit: str = "") -> str:
    """Formats a validation cell; NaN gives an empty one."""
    return " " * 14 if math.isnan(value) else f" {format(value, spec) + unit:>12} "
