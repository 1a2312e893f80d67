"""Progress of a run: one line per epoch and, on a terminal, a progress bar below."""

import sys
from typing import Any, Self

from grouped_conv_jax.commands._checkpoints import Row

_PARTS = ("training", "validation")


def on_terminal() -> bool:
    """Returns whether standard error is a terminal."""
    return sys.stderr.isatty()


class Progress:
    """Receives the events of a run and shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def compiling(self) -> None:
        """Reports that compilation begins."""

    def step(self) -> None:
        """Reports a completed step."""

    def epoch(self, row: Row) -> None:
        """Reports the metrics of a completed epoch."""


class Lines(Progress):
    """Prints one line per epoch, at most 50 columns wide."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._width = len(str(epochs))

    def compiling(self) -> None:
        margin = " " * len(self._name(0))
        parts = "".join(f"{part:>17}" for part in _PARTS)
        scores = f"{'loss':>9}{'correct':>8}" * len(_PARTS)
        self._print(f"compiling\n{margin}{parts}\n{margin}{scores}")

    def epoch(self, row: Row) -> None:
        scores = "".join(
            f"{row[f'{part}_loss']:9.4f}{row[f'{part}_accuracy']:8.2%}" for part in _PARTS
        )
        self._print(f"{self._name(int(row['epoch']))}{scores}")

    def _name(self, epoch: int) -> str:
        return f"epoch {epoch:{self._width}}/{self._epochs}"

    def _print(self, text: str) -> None:
        print(text, flush=True)


class Bar(Lines):
    """Prints the same lines above a bar over all steps, which disappears at the end."""

    def __init__(self, epochs: int, steps_per_epoch: int, steps_taken: int) -> None:
        from tqdm import tqdm

        super().__init__(epochs)
        self._bar: Any = tqdm(
            total=epochs * steps_per_epoch,
            initial=steps_taken,
            dynamic_ncols=True,
            leave=False,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {remaining}",
        )
        self._describe(steps_taken // steps_per_epoch)

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def compiling(self) -> None:
        super().compiling()
        self._bar.set_description_str("compiling")

    def step(self) -> None:
        if self._bar.desc == "compiling":
            self._bar.set_description_str(self._description, refresh=False)
        self._bar.update()

    def epoch(self, row: Row) -> None:
        super().epoch(row)
        self._describe(int(row["epoch"]))

    def _describe(self, complete: int) -> None:
        self._description = self._name(min(complete + 1, self._epochs))
        self._bar.set_description_str(self._description)

    def _print(self, text: str) -> None:
        self._bar.write(text)
        sys.stdout.flush()
