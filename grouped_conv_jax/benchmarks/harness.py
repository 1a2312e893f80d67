"""Measures convolutions: checks every contender against float64, then times them in turns."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from grouped_conv_jax.benchmarks import contenders, machine, reference, timing
from grouped_conv_jax.benchmarks.cases import Case
from grouped_conv_jax.benchmarks.contenders import Contender
from grouped_conv_jax.benchmarks.pytorch import Torch
from grouped_conv_jax.benchmarks.timing import Ready
from grouped_conv_jax.operation._description import Role


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        against: the contenders besides this package.
        roles: the roles to measure.
        dtype: dtype of the operands.
        implementation: name of an implementation of this package, or ``None`` to let it choose.
        rounds: number of blocks of back-to-back calls per contender.
        seconds: duration of a block.
    """

    against: tuple[str, ...] = ("lax",)
    roles: tuple[Role, ...] = (Role.FORWARD, Role.INPUT_GRADIENT, Role.FILTER_GRADIENT)
    dtype: str = "float32"
    implementation: str | None = None
    rounds: int = 3
    seconds: float = 0.3


class Task(NamedTuple):
    """One role of one case, with the suites that contain the case."""

    case: Case
    role: Role
    suites: list[str]


def tasks(cases: dict[Case, list[str]], settings: Settings) -> list[Task]:
    """Returns the tasks for some cases, in order."""
    return [Task(case, role, suites) for case, suites in cases.items() for role in settings.roles]


class Harness:
    """Measures on JAX's default device.

    Args:
        settings: how to measure.
        roofline: result of :func:`machine.measure_roofline`.
        torch: PyTorch, if it is a contender.
    """

    def __init__(self, settings: Settings, roofline: dict[str, Any], torch: Torch | None) -> None:
        self._settings = settings
        self._roofline = roofline
        self._torch = torch

    def measure(self, task: Task) -> list[dict[str, Any]]:
        """Measures one role of one case.

        Returns:
            One record per contender; if the contender failed or its result is wrong, the record has
            a ``failure`` instead of a time.
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
            # Record any error of a contender, so that the others are still measured.
            try:
                contender = prepare()
                error, seconds = _check(contender, exact)
            except Exception as failure:
                record["failure"] = timing.describe(failure)
                continue
            record |= {"variant": contender.variant, "error": error, "error_limit": limit}
            record |= contender.details
            # NaN fails this comparison too.
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
        """Yields name, variant and preparing function of each contender."""
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
        """Returns the largest error allowed, relative to the root mean square of the exact result.

        The rounding error of a sum of random products grows with the square root of their number. A
        factor of eight leaves room for the largest of all elements and still detects a single wrong
        tap or channel.
        """
        products = float(jnp.finfo(jnp.dtype(self._settings.dtype)).eps)
        if jax.default_backend() != "cpu":
            # Tensor cores round the operands of float32 products to ten bits.
            products = max(products, 2.0**-10)
        sums = float(np.finfo(np.float32).eps) * math.sqrt(case.terms(role))
        return 8 * (products + sums)

    def _rates(self, case: Case, record: dict[str, Any]) -> dict[str, float]:
        """Returns the rates of operations and bytes, and their shares of peak and roofline."""
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
    """Returns the largest error, relative to the root mean square, and the seconds per call."""
    result, seconds = timing.first_calls(contender)
    error = np.max(np.abs(contender.to_numpy(result) - exact)) / np.sqrt(np.mean(exact**2))
    return float(error), seconds
