"""What a run shows of itself: a bar on a terminal, plain lines elsewhere."""

import sys
from typing import Any, Protocol, Self

from grouped_conv_jax.commands._checkpoints import Row


class Progress(Protocol):
    """Is told of each step and each epoch."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def step(self) -> None: ...
    def epoch(self, row: Row) -> None: ...


def on_terminal() -> bool:
    """Whether somebody watches."""
    return sys.stderr.isatty()


class Lines:
    """A line for each epoch."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def step(self) -> None:
        pass

    def epoch(self, row: Row) -> None:
        number = f"{row['epoch']:{len(str(self._epochs))}}/{self._epochs}"
        print(
            f"epoch {number}  training: {_score(row, 'training')}  "
            f"validation: {_score(row, 'validation')}",
            flush=True,
        )


class Bar:
    """A bar over all steps, which shows the last epoch's validation."""

    def __init__(self, epochs: int, steps_per_epoch: int, steps_taken: int) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(
            total=epochs * steps_per_epoch, initial=steps_taken, unit="step", dynamic_ncols=True
        )
        self._epochs = epochs
        self._name(steps_taken // steps_per_epoch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self) -> None:
        self._bar.update()

    def epoch(self, row: Row) -> None:
        self._name(int(row["epoch"]))
        self._bar.set_postfix_str(f"validation: {_score(row, 'validation')}")

    def _name(self, complete: int) -> None:
        self._bar.set_description(f"epoch {min(complete + 1, self._epochs)}/{self._epochs}")


def _score(row: Row, part: str) -> str:
    return f"loss {row[f'{part}_loss']:.4f}, accuracy {row[f'{part}_accuracy']:7.2%}"
