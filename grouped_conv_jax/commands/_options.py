"""The options of a training run: their values, defaults and parsers."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any, Self, TypeVar

from grouped_conv_jax import _checks
from grouped_conv_jax.commands._errors import CommandError

Number = TypeVar("Number", int, float)

LEARNING_RATES = {"sgdm": 0.05, "adam": 0.005, "rmsprop": 0.002}
MOMENTUM = 0.9
IMAGE_SIZE = (64, 64)
DROP_PERIOD, DROP_FACTOR = 10, 0.1
# A resumed run may have more epochs, and its data may have moved.
_CHANGEABLE = ("epochs", "data")


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a run, named as on the command line; ``None`` selects a dependent default."""

    data: str | None = None
    image_size: tuple[int, int] | None = None
    api: str = "linen"
    solver: str = "adam"
    learning_rate: float | None = None
    l2: float = 1e-4
    momentum: float | None = None
    epochs: int = 30
    batch_size: int = 32
    seed: int = 0
    schedule: str = "none"
    patience: int | None = None

    @classmethod
    def begin(cls, given: dict[str, Any]) -> Self:
        """Completes the given options with the defaults of a new run.

        Raises:
            CommandError: a given option has no effect.
        """
        options = cls(**given)
        if options.image_size and not options.data:
            raise CommandError("--image-size is for --data; the digits have 8 x 8 pixels")
        if options.momentum is not None and options.solver != "sgdm":
            raise CommandError(f"--momentum is for --solver sgdm, got --solver {options.solver}")
        rest: dict[str, Any] = {}
        if options.learning_rate is None:
            rest["learning_rate"] = LEARNING_RATES[options.solver]
        if options.momentum is None and options.solver == "sgdm":
            rest["momentum"] = MOMENTUM
        if options.image_size is None and options.data:
            rest["image_size"] = IMAGE_SIZE
        return dataclasses.replace(options, **rest)

    def resume(self, given: dict[str, Any]) -> Self:
        """Returns the options of the resumed run, updated with the given ones.

        Raises:
            CommandError: a given option differs from the run's and cannot be changed.
        """
        for name, value in given.items():
            old = getattr(self, name)
            if name not in _CHANGEABLE and value != old:
                raise CommandError(
                    f"--resume keeps the options of the run, {flag(name)} {_show(old)}; "
                    f"got {flag(name)} {_show(value)}. "
                    "Omit the option, or start a new run in another --out"
                )
        if "data" in given and self.data is None:
            raise CommandError("--resume keeps the data of the run, the digits; got --data")
        return dataclasses.replace(self, **{k: given[k] for k in _CHANGEABLE if k in given})

    def to_json(self) -> dict[str, Any]:
        """Returns the options as ``config.json`` stores them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Self:
        """Inverts :meth:`to_json`.

        Raises:
            CommandError: ``stored`` has unknown names.
        """
        try:
            options = cls(**stored)
        except TypeError as error:
            raise CommandError(f"the options of the run cannot be read: {error}") from error
        if options.image_size is None:
            return options
        height, width = options.image_size
        return dataclasses.replace(options, image_size=(height, width))


NAMES = tuple(field.name for field in dataclasses.fields(Options))


def flag(name: str) -> str:
    """Returns the command-line option of a field."""
    return "--" + name.replace("_", "-")


def _show(value: Any) -> str:
    if value is None:
        return "not given"
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _number(kind: Callable[[str], Number], interval: _checks.Interval) -> Callable[[str], Number]:
    def parse(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not interval.contains(value):
            raise argparse.ArgumentTypeError(f"must be {interval.rule}, got {text!r}")
        return value

    return parse


positive_integer = _number(int, _checks.Interval("a positive integer", lambda n: n >= 1))
seed = _number(int, _checks.Interval("an integer from 0 to 2147483647", lambda n: 0 <= n < 2**31))
process_id = _number(int, _checks.Interval("a nonnegative integer", lambda n: n >= 0))
positive = _number(float, _checks.POSITIVE)
nonnegative = _number(float, _checks.NONNEGATIVE)
fraction = _number(float, _checks.FROM_0_TO_1)


def address(text: str) -> str:
    """Checks ``"host:port"``."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"must be HOST:PORT, got {text!r}")
    return text


def image_size(text: str) -> tuple[int, int]:
    """Parses ``"64"`` or ``"64x48"``, height first."""
    parts = text.lower().split("x")
    try:
        height, width = map(int, parts * 2 if len(parts) == 1 else parts)
    except ValueError:
        height = width = 0
    if not (3 <= height <= 4096 and 3 <= width <= 4096):
        raise argparse.ArgumentTypeError(
            f"must be N or HEIGHTxWIDTH, from 3 to 4096 pixels each, got {text!r}"
        )
    return height, width
