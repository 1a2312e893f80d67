"""Tells which implementation computes what, and why."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, overload

import jax

from grouped_conv_jax import _checks
from grouped_conv_jax.operation import _jax_internals, _lowering, _marks
from grouped_conv_jax.operation._choice import PLATFORMS, Choice
from grouped_conv_jax.operation._functional import grouped_conv


class Explanation(NamedTuple):
    """What runs one convolution of a program.

    Attributes:
        role: ``"forward"``, ``"input_gradient"`` or ``"filter_gradient"`` of a grouped
            convolution; ``None`` for what is left to JAX unseen.
        implementation: its name; ``"lax"`` is JAX's own.
        reason: why it was chosen, or why the convolution stays JAX's.
        shapes: of the two operands.
        flops: multiplications and additions, those with padding included.
        where: the line that it was written in.
    """

    role: str | None
    implementation: str
    reason: str
    shapes: tuple[tuple[Any, ...], tuple[Any, ...]]
    flops: Any
    where: str


@overload
def explain(
    function: Callable[..., Any], /, *arguments: Any, platform: str | None = None, **keywords: Any
) -> list[Explanation]: ...
@overload
def explain(
    x: Any, weights: Any, bias: Any = None, /, *, platform: str | None = None, **keywords: Any
) -> dict[str, Choice]: ...
def explain(subject: Any, /, *arguments: Any, platform: str | None = None, **keywords: Any) -> Any:
    """Tells the implementation of each convolution of a program, or of one, and why it is used.

    Nothing is computed, so ``jax.ShapeDtypeStruct`` will do for arrays. What is told holds on one
    device. A reason that says "estimated" rests on what a compiler estimates, not on a measurement.

    Args:
        subject: a function, in whose program the convolutions are looked up; or ``x``, as for
            :func:`grouped_conv_jax.grouped_conv`.
        *arguments: those of the function; or ``weights`` and perhaps ``bias``.
        platform: ``"cpu"``, ``"cuda"`` (or ``"gpu"``), ``"rocm"`` or ``"tpu"``; by default JAX's
            default backend.
        **keywords: of the function, or of :func:`grouped_conv_jax.grouped_conv`.

    Returns:
        Of a function, a list with an :class:`Explanation` of each convolution. Of arrays, for
        ``"forward"``, ``"input_gradient"`` and ``"filter_gradient"`` a pair
        ``(implementation, reason)``.

    Raises:
        TypeError: as the function; or ``platform`` is not a word.
        ValueError: likewise; or ``platform`` is none of the four.
        NotImplementedError: the implementation asked for cannot compute the convolution.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from grouped_conv_jax import accelerate, explain, grouped_conv2d
        >>> x = jax.ShapeDtypeStruct((8, 56, 56, 128), jnp.float32)
        >>> weights = jax.ShapeDtypeStruct((3, 3, 1, 1, 128), jnp.float32)
        >>> explain(x, weights, padding="same", platform="cpu")["forward"].implementation
        'native'
        >>> def loss(weights, x):
        ...     return jnp.sum(grouped_conv2d(x, weights) ** 2)
        >>> for told in explain(jax.grad(loss), weights, x, platform="tpu"):
        ...     print(told.role, told.implementation)
        forward lax
        filter_gradient lax
    """
    named = jax.default_backend() if platform is None else platform
    backend = _checks.word("platform", named, (*PLATFORMS, "gpu"), "None")
    backend = "cuda" if backend == "gpu" else backend
    if callable(subject):
        program = jax.make_jaxpr(functools.partial(subject, **keywords))(*arguments)
        equations = _jax_internals.convolutions(program.jaxpr)
        return [_explanation(equation, backend) for equation in equations]
    return _explain_one(subject, *arguments, platform=backend, **keywords)


def _explanation(equation: Any, platform: str) -> Explanation:
    lhs, rhs = (variable.aval for variable in equation.invars)
    (out,) = (variable.aval for variable in equation.outvars)
    mark = _marks.of(_jax_internals.metadata(equation.ctx))
    found, (implementation, reason) = _lowering.decide(mark, lhs, rhs, equation.params, platform)
    # Each number of the result is a sum over a filter, whatever the role, but for the holes that
    # the stride of an input gradient leaves.
    outputs = rhs.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    outputs *= math.prod(equation.params["lhs_dilation"])
    return Explanation(
        found.role.name.lower() if found else None,
        implementation,
        reason,
        (lhs.shape, rhs.shape),
        2 * math.prod(out.shape) * math.prod(rhs.shape) // outputs,
        _jax_internals.where(equation),
    )


def _explain_one(
    x: Any, weights: Any, bias: Any = None, *, platform: str, **keywords: Any
) -> dict[str, Choice]:
    convolve = functools.partial(grouped_conv, **keywords)

    def last(*arguments: int) -> Choice:
        """The last convolution of the forward pass and of what is pulled back to arguments."""

        def program(*operands: Any) -> Any:
            def of_some(*some: Any) -> jax.Array:
                replaced = dict(enumerate(operands)) | dict(zip(arguments, some, strict=True))
                return convolve(*replaced.values())

            y, pull = jax.vjp(of_some, *(operands[i] for i in arguments))
            return pull(y) if arguments else y

        *_, equation = _jax_internals.convolutions(jax.make_jaxpr(program)(x, weights, bias).jaxpr)
        told = _explanation(equation, platform)
        return Choice(told.implementation, told.reason)

    return {"forward": last(), "input_gradient": last(0), "filter_gradient": last(1)}
