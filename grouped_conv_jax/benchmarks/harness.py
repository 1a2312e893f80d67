"""Measures cases: every contender is checked against float64, then they alternate in blocks."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from grouped_conv_jax.benchmarks import contenders, machine, reference, timing
from grouped_conv_jax.benchmarks.contenders import Contender
from grouped_conv_jax.benchmarks.pytorch import Torch
from grouped_conv_jax.benchmarks.suites import Case
from grouped_conv_jax.benchmarks.timing import Ready
from grouped_conv_jax.operation._description import Role


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        against: the contenders besides this package.
        roles: what to measure of each case.
        dtype: of the operands.
        implementation: of this package, or ``None`` for its own choice.
        rounds: how many blocks of back-to-back calls each contender has.
        seconds: how long a block takes.
    """

    against: tuple[str, ...] = ("lax",)
    roles: tuple[Role, ...] = (Role.FORWARD, Role.INPUT_GRADIENT, Role.FILTER_GRADIENT)
    dtype: str = "float32"
    implementation: str | None = None
    rounds: int = 3
    seconds: float = 0.3


class Task(NamedTuple):
    """One role of one case, and the suites that the case is of."""

    case: Case
    role: Role
    suites: list[str]


def tasks(cases: dict[Case, list[str]], settings: Settings) -> list[Task]:
    """What there is to measure, in order."""
    return [Task(case, role, suites) for case, suites in cases.items() for role in settings.roles]


class Harness:
    """Measures on the device that JAX chose.

    Args:
        settings: how to measure.
        roofline: what :func:`machine.measure_roofline` returned.
        torch: PyTorch, where it takes part.
    """

    def __init__(self, settings: Settings, roofline: dict[str, Any], torch: Torch | None) -> None:
        self._settings = settings
        self._roofline = roofline
        self._torch = torch

    def measure(self, task: Task) -> list[dict[str, Any]]:
        """Measures one role of one case.

        Returns:
            A record for each contender. One that failed, or whose result is wrong, has no time but
            a ``failure``.
        """
        case, role = task.case, task.role
        operands = contenders.random_operands(case, role, self._settings.dtype)
        exact = reference.compute(role, *operands, case.convolution)
        limit = self._error_limit(case, role)
        records: list[dict[str, Any]] = []
        ready: list[Ready] = []
        for name, variant, prepare in self._candidates(case, role, operands):
            record: dict[str, Any] = {"contender": name, "variant": variant}
            records.append(record)
            # Whatever a contender raises is what is to be known about it.
            try:
                contender = prepare()
                error, seconds = _check(contender, exact)
            except Exception as failure:
                record["failure"] = timing.describe(failure)
                continue
            record |= {"variant": contender.variant, "error": error, "error_limit": limit}
            record |= contender.details
            # This refuses NaN too.
            if error <= limit:
                ready.append(Ready(record, contender, seconds))
            else:
                record["failure"] = f"wrong: error {error:.1e}, at most {limit:.1e} is allowed"
        timing.take_blocks(ready, self._settings.rounds, self._settings.seconds)
        common = {
            "case": str(case),
            "suites": task.suites,
            "role": role.name.lower(),
            "dtype": self._settings.dtype,
        }
        return [common | record | self._rates(case, record) for record in records]

    def _candidates(
        self, case: Case, role: Role, operands: tuple[np.ndarray, np.ndarray]
    ) -> Iterator[tuple[str, str | None, Callable[[], Contender]]]:
        """Name and variant of each contender, and what prepares it."""
        for name in ("ours", *self._settings.against):
            if name != "torch":
                implementation = self._settings.implementation
                prepare = functools.partial(contenders.prepare_jax, name)
                yield name, None, functools.partial(prepare, case, role, operands, implementation)
            elif self._torch:
                prepare = functools.partial(self._torch.prepare, case, role, operands)
                for layout in Torch.layouts:
                    yield name, layout, functools.partial(prepare, layout)

    def _error_limit(self, case: Case, role: Role) -> float:
        """How far a result may be off, in root mean squares of the exact one.

        The errors of a sum of random products are random too and grow with the square root of
        their number. Eight times that is beyond what chance does to any of the results, and far
        below what a wrong tap or channel does.
        """
        products = float(jnp.finfo(jnp.dtype(self._settings.dtype)).eps)
        if jax.default_backend() != "cpu":
            # Tensor cores round the factors of float32 products to ten bits.
            products = max(products, 2.0**-10)
        sums = float(np.finfo(np.float32).eps) * math.sqrt(case.terms(role))
        return 8 * (products + sums)

    def _rates(self, case: Case, record: dict[str, Any]) -> dict[str, float]:
        """What a time means: operations and bytes a second, and shares of the machine's best."""
        if "milliseconds" not in record:
            return {}
        seconds = record["milliseconds"] / 1e3
        size = case.elements * jnp.dtype(self._settings.dtype).itemsize
        least = machine.least_seconds(self._roofline, size, case.operations)
        return {
            "gflops": timing.rounded(case.operations / seconds / 1e9),
            "gigabytes_per_second": timing.rounded(size / seconds / 1e9),
            "peak_share": timing.rounded(case.operations / seconds / self._roofline["flops"]),
            "roofline_share": timing.rounded(least / seconds),
        }


def _check(contender: Contender, exact: np.ndarray) -> tuple[float, float]:
    """The largest error of a contender, in root mean squares, and about how long a call takes."""
    result, seconds = timing.first_calls(contender)
    error = np.max(np.abs(contender.to_numpy(result) - exact)) / np.sqrt(np.mean(exact**2))
    return float(error), seconds
