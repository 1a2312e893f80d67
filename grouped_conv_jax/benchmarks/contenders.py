"""The computations that are compared, and their compilation by JAX."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from grouped_conv_jax.benchmarks.cases import Case
from grouped_conv_jax.operation._call import convolve
from grouped_conv_jax.operation._choice import Choice, Setting, choose
from grouped_conv_jax.operation._description import Role

NAMES = ("ours", "lax", "torch")
DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Contender:
    """A computation that is ready to run.

    Attributes:
        name: one of :data:`NAMES`.
        variant: the implementation, or the memory layout of PyTorch.
        run: starts the computation and returns its result.
        wait: waits until a result is available.
        queued: whether to start several calls before waiting for one. Accelerators run queued calls
            one after the other; CPUs would run them concurrently.
        details: further fields of the record.
        to_numpy: converts a result of ``run`` to canonical order and float64.
    """

    name: str
    variant: str
    run: Callable[[], Any]
    wait: Callable[[Any], Any]
    queued: bool
    details: dict[str, Any]
    to_numpy: Callable[[Any], np.ndarray] = np.asarray


def prepare_jax(
    name: str,
    case: Case,
    role: Role,
    operands: tuple[np.ndarray, np.ndarray],
    implementation: str | None,
) -> Contender:
    """Compiles one role of a convolution with this package or with lax.

    Args:
        name: ``"ours"`` or ``"lax"``.
        case: the convolution.
        role: the role to compute.
        operands: the operands, in canonical order.
        implementation: name of an implementation of this package, or ``None`` to let it choose.
    """
    if name == "lax":
        implementation = "lax"
    function = program(case, role, operands[0].dtype, implementation)
    arguments = [jax.device_put(operand) for operand in operands]
    compiled, details = compile_jax(function, *arguments)
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    return Contender(
        name,
        chosen(case, role, operands[0].dtype, platform, implementation).implementation,
        lambda: compiled(*arguments),
        jax.block_until_ready,
        jax.default_backend() != "cpu",
        details,
        lambda result: np.asarray(result).astype(np.float64),
    )


def program(
    case: Case, role: Role, dtype: DTypeLike, implementation: str | None
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns one role as user programs compute it: the forward pass or its transpose."""
    convolution = case.convolution

    def forward(x: jax.Array, filters: jax.Array) -> jax.Array:
        return convolve(x, filters, convolution, implementation)

    def input_gradient(filters: jax.Array, y: jax.Array) -> jax.Array:
        x = jax.ShapeDtypeStruct(case.shape(role), dtype)
        (result,) = jax.linear_transpose(lambda x: forward(x, filters), x)(y)
        return result

    def filter_gradient(x: jax.Array, y: jax.Array) -> jax.Array:
        filters = jax.ShapeDtypeStruct(case.shape(role), dtype)
        (result,) = jax.linear_transpose(lambda filters: forward(x, filters), filters)(y)
        return result

    functions = {
        Role.FORWARD: forward,
        Role.INPUT_GRADIENT: input_gradient,
        Role.FILTER_GRADIENT: filter_gradient,
    }
    return functions[role]


def compile_jax(function: Callable[..., Any], *arguments: Any) -> tuple[Any, dict[str, Any]]:
    """Compiles ahead of time; returns the executable, its compile time and its memory use."""
    lowered = jax.jit(function).lower(*arguments)
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    temporary = None if memory is None else int(memory.temp_size_in_bytes)
    return compiled, {"compile_seconds": round(seconds, 4), "temporary_bytes": temporary}


def chosen(
    case: Case, role: Role, dtype: DTypeLike, platform: str, implementation: str | None
) -> Choice:
    """Returns the implementation that one device of a platform uses for a role, and the reason."""
    channels, filters = case.channels // case.groups, case.filters // case.groups
    setting = Setting(platform, False, case.batch, dtype)
    return choose(role, case.convolution, channels, filters, setting, implementation)


def random_operands(case: Case, role: Role, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns normally distributed operands of a role, from a fixed seed."""
    random = np.random.default_rng(0)
    first, second = (
        random.standard_normal(case.shape(operand), np.float32).astype(jnp.dtype(dtype))
        for operand in role.operands
    )
    return first, second
