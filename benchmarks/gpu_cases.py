"""The convolutions that :mod:`gpu` measures, and the compilation of their roles."""

import dataclasses
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from grouped_conv_jax import grouped_conv2d
from grouped_conv_jax._padding import Padding
from grouped_conv_jax.benchmarks import timing
from grouped_conv_jax.benchmarks.cases import Case
from grouped_conv_jax.benchmarks.contenders import Contender
from grouped_conv_jax.operation._description import Role

# lax comes first, as the reference of errors.
NAMES: dict[str, str | None] = {"lax": "lax", "taps": "taps", "blocks": "blocks", "ours": None}
PORTABLE, LAYOUT = ("taps", "blocks"), "channels-last"
ROLES, PER_SAMPLE = ("forward", "input_gradient", "filter_gradient"), "per_sample_gradient"
DTYPES = ("float32", "bfloat16")
# Error limit for float32 with precision="highest"; the error of TF32 is about 1e-3.
HIGHEST_LIMIT = 1e-4
SHAPES_AT_ONCE = 4
MARK = re.compile(r'grouped_conv_jax = "\w+"')

Record = dict[str, Any]
Rows = dict[tuple[str, str, str], dict[str, Record]]


def make_case(
    image: Any, channels: int, filters: int, size: Any, groups: int, stride: Any = 1, **more: Any
) -> Case:
    """Returns a case of two images; the default padding, "same", may be asymmetric."""
    numbers = (image, size, stride, more.get("dilation", 1))
    pixels, taps, strides, steps = ((n, n) if isinstance(n, int) else n for n in numbers)
    sides = Padding.parse(more.get("padding", "same"), 0, 2).resolve(pixels, taps, strides, steps)
    return Case(2, pixels, channels, filters, taps, groups, strides, steps, sides)


CAUSAL = (0, 0, 3, 0)
TESTED = (
    make_case((9, 8), 6, 6, 3, 6, 2),
    make_case((5, 4), 24, 32, 1, 4, (2, 1)),
    make_case((12, 11), 33, 33, 5, 33, dilation=2),
    make_case((11, 10), 4, 12, (2, 3), 4, (3, 2)),
    make_case((9, 8), 20, 20, 3, 5, 2),
    make_case((6, 5), 14, 35, 3, 7),
    make_case((13, 12), 48, 48, 3, 2, 2, padding=1),
    make_case((1, 65), 16, 16, (1, 4), 16, padding=CAUSAL),
    make_case(17, 8, 8, 15, 8, 2, padding=((7, 6), (5, 7))),
)
REPRESENTATIVE = (
    make_case(56, 128, 128, 3, 128),
    make_case(28, 192, 192, 3, 192, 2),
    make_case(56, 128, 128, 3, 32),
    make_case(14, 480, 480, 5, 480),
    make_case(56, 96, 96, 7, 96),
    make_case((1, 1024), 512, 512, (1, 4), 512, padding=CAUSAL),
    make_case(28, 64, 128, 3, 64),
    make_case(28, 256, 256, 1, 4),
    make_case(14, 512, 512, 3, 32),
    make_case(112, 96, 96, 3, 96, 2, padding=1),
    make_case(56, 144, 144, 5, 144, 2),
    make_case(14, 384, 384, 7, 384),
    make_case(7, 960, 960, 3, 960),
    make_case(28, 336, 336, 3, 14, 2, padding=1),
    make_case(56, 32, 128, 5, 32),
    make_case(28, 240, 60, 1, 3),
    make_case(14, 512, 512, 27, 512),
    make_case(56, 128, 128, 31, 128),
)
# Representative shapes of per-sample filter gradients.
SAMPLED = (make_case(28, 192, 192, 3, 192), make_case(28, 256, 256, 3, 32))
# Measures the launch overhead: programs that take about as long are bound by the host.
SMALLEST = make_case(1, 1, 1, 1, 1)


class Task(NamedTuple):
    """A case, a dtype, and a role: one of :data:`ROLES`, or :data:`PER_SAMPLE`."""

    case: Case
    role: str
    dtype: str

    @property
    def computed(self) -> Role:
        """The role that is computed, for the batch or per sample."""
        return Role.FILTER_GRADIENT if self.role == PER_SAMPLE else Role[self.role.upper()]

    def record(self) -> Record:
        """Returns the fields that identify the task, and those that a choice may depend on."""
        weights = self.case.channels * self.case.filters // self.case.groups**2
        about = {"weights_per_tap": weights, "taps": math.prod(self.case.filter_size)}
        return {"shape": str(self.case), "role": self.role, "dtype": self.dtype} | about

    def operands(self) -> list[np.ndarray]:
        """Returns normally distributed operands, from a fixed seed."""
        random, dtype = np.random.default_rng(0), jnp.dtype(self.dtype)
        shapes = [self.case.shape(operand) for operand in self.computed.operands]
        return [random.standard_normal(shape, np.float32).astype(dtype) for shape in shapes]

    def limit(self, highest: bool) -> float:
        """Returns the error limit; in default precision, that of the harness on accelerators."""
        if highest and self.dtype == "float32":
            return HIGHEST_LIMIT
        products = max(float(jnp.finfo(self.dtype).eps), 2.0**-10)
        sums = float(np.finfo(np.float32).eps) * math.sqrt(self.case.terms(self.computed))
        return 8 * (products + sums)

    def program(self, implementation: str | None, highest: bool) -> "Program":
        """Returns the role of canonical operands as a program that calls the public function."""
        case, dtype = self.case, self.dtype
        precision = "highest" if highest and dtype == "float32" else None
        keywords: Any = {"stride": case.stride, "dilation_factor": case.dilation}
        keywords |= {"padding": case.padding, "precision": precision}

        def forward(x: Any, filters: Any) -> Any:
            weights = filters.reshape(*filters.shape[:3], case.groups, -1).swapaxes(3, 4)
            return grouped_conv2d(x, weights, implementation=implementation, **keywords)

        def input_gradient(filters: Any, y: Any) -> Any:
            x = jnp.zeros(case.shape(Role.INPUT_GRADIENT), dtype)
            return jax.vjp(forward, x, filters)[1](y)[0]

        def filter_gradient(x: Any, y: Any) -> Any:
            filters = jnp.zeros(case.shape(Role.FILTER_GRADIENT), dtype)
            return jax.vjp(forward, x, filters)[1](y)[1]

        def per_sample_gradient(x: Any, y: Any) -> Any:
            return jax.vmap(lambda x, y: filter_gradient(x[None], y[None]))(x, y)

        functions = (forward, input_gradient, filter_gradient, per_sample_gradient)
        function = next(one for one in functions if one.__name__ == self.role)
        shapes = (case.shape(operand) for operand in self.computed.operands)
        return Program(function, *(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes))

    def folded(self, lhs: np.ndarray, rhs: np.ndarray) -> tuple[Case, Role, Any]:
        """Converts to one role of a batch; samples become groups, as in PyTorch's ``vmap``."""
        if self.role != PER_SAMPLE:
            return self.case, self.computed, (lhs, rhs)
        names = ("channels", "filters", "groups")
        wide: Any = {name: self.case.batch * getattr(self.case, name) for name in names}
        pair = [np.moveaxis(a, 0, -2).reshape(1, *a.shape[1:-1], -1) for a in (lhs, rhs)]
        return dataclasses.replace(self.case, batch=1, **wide), self.computed, pair

    def unfolded(self, result: np.ndarray) -> np.ndarray:
        """Converts a result of :meth:`folded` to the shape that the programs return."""
        if self.role != PER_SAMPLE:
            return result
        return np.moveaxis(result.reshape(*result.shape[:-1], self.case.batch, -1), -2, 0)


class Program:
    """A program that compiles in a thread of its own, so that others can give up on it.

    Args:
        function: the function to compile.
        *arguments: shapes and dtypes of its arguments.

    Attributes:
        owner: the program that compiles the same computation, perhaps this one.
        started: when compilation started.
        seconds: the compile time.
        failure: why there is no executable.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._function, self._arguments = function, arguments
        self.owner, self.started = self, math.inf
        self._compiled: Any = None
        self.seconds: float | None = None
        self.failure: str | None = None

    def start(self, known: dict[str, "Program"]) -> None:
        """Starts to compile, unless an equal program, up to this package's marks, is known."""
        self.thread = threading.Thread(target=self._build, args=(known,), daemon=True)
        self.thread.start()

    def _build(self, known: dict[str, "Program"]) -> None:
        # Record any error of the compilation.
        try:
            lowered = jax.jit(self._function).lower(*self._arguments)
            self.owner = known.setdefault(MARK.sub("", lowered.as_text()), self)
            if self.owner is self:
                self.started = start = time.perf_counter()
                self._compiled = lowered.compile()
                self.seconds = round(time.perf_counter() - start, 2)
        except Exception as failure:
            self.failure = timing.describe(failure)

    def problem(self) -> str | None:
        """Returns why there is no executable, or ``None``."""
        return self.failure or self.owner.failure

    def contender(self, arguments: Sequence[Any]) -> Contender:
        """Returns the executable, ready to run."""
        run, queued = self.owner._compiled, jax.default_backend() != "cpu"
        wait = jax.block_until_ready
        return Contender("", "", lambda: run(*arguments), wait, queued, {}, np.asarray)
