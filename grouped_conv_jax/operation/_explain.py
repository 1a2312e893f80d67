"""Reports which implementation computes each convolution of a program, and why."""

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
    """How one convolution of a program is computed.

    Attributes:
        role: ``"forward"``, ``"input_gradient"`` or ``"filter_gradient"`` of a grouped
            convolution; ``None`` if the convolution is left to JAX without being matched.
        implementation: the implementation's name; ``"lax"`` is JAX's own.
        reason: why it was chosen, or why the convolution is left to JAX.
        shapes: the shapes of the two operands.
        flops: the number of multiplications and additions, including those with padding.
        where: the source line of the convolution.
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
    """Reports the implementation of each convolution of a program, or of a single convolution.

    Nothing is computed, so each array may be a ``jax.ShapeDtypeStruct``. The report is for one
    device. A reason that says "estimated" rests on a compiler's estimate, not on a measurement.

    Args:
        subject: a function, whose convolutions are reported; or ``x``, as for
            :func:`grouped_conv_jax.grouped_conv`.
        *arguments: the function's arguments; or ``weights`` and optionally ``bias``.
        platform: ``"cpu"``, ``"cuda"`` (or ``"gpu"``), ``"rocm"`` or ``"tpu"``; by default JAX's
            default backend.
        **keywords: keyword arguments of the function, or of
            :func:`grouped_conv_jax.grouped_conv`.

    Returns:
        For a function, a list with an :class:`Explanation` of each convolution. For arrays, a
        dictionary from ``"forward"``, ``"input_gradient"`` and ``"filter_gradient"`` to a pair
        ``(implementation, reason)``.

    Raises:
        TypeError: the function raises it, or ``platform`` is not a string.
        ValueError: the function raises it, or there is no such ``platform``.
        NotImplementedError: the requested implementation cannot compute the convolution.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from grouped_conv_jax import accelerate, explain, grouped_conv2d
        >>> x = jax.ShapeDtypeStruct((8, 56, 56, 128), jnp.float32)
        >>> weights = jax.ShapeDtypeStruct((3, 3, 1, 1, 128), jnp.float32)
        >>> explain(x, weights, padding="same", platform="cpu")["forward"].implementation
        'native'
        >>> def loss(weights, x):
        ...     return jnp.sum(grouped_conv2d(x, weights) ** 2)
        >>> for convolution in explain(jax.grad(loss), weights, x, platform="tpu"):
        ...     print(convolution.role, convolution.implementation)
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
    mark = _marks.read(_jax_internals.metadata(equation.ctx))
    match, (implementation, reason) = _lowering.decide(mark, lhs, rhs, equation.params, platform)
    # Each element of the result is a sum over one filter, whatever the role. In an input gradient,
    # the dilation of lhs by the stride makes most of the products zero.
    outputs = rhs.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    outputs *= math.prod(equation.params["lhs_dilation"])
    return Explanation(
        match.role.name.lower() if match else None,
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

    def choice(*argnums: int) -> Choice:
        """The choice for the gradient in an argument; for the forward pass if none is given."""

        def program(*operands: Any) -> Any:
            def function(*differentiated: Any) -> jax.Array:
                replaced = dict(zip(argnums, differentiated, strict=True))
                return convolve(*(dict(enumerate(operands)) | replaced).values())

            y, pull_back = jax.vjp(function, *(operands[i] for i in argnums))
            return pull_back(y) if argnums else y

        # The gradient's convolution follows that of the forward pass.
        *_, last = _jax_internals.convolutions(jax.make_jaxpr(program)(x, weights, bias).jaxpr)
        explanation = _explanation(last, platform)
        return Choice(explanation.implementation, explanation.reason)

    return {"forward": choice(), "input_gradient": choice(0), "filter_gradient": choice(1)}
