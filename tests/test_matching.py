"""Every convolution that differentiation and batching make of a grouped one is matched, exactly."""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import COMPILED_QUICKLY
from jax import lax
from jax.extend.core.primitives import conv_general_dilated_p

from grouped_conv_jax.benchmarks import reference
from grouped_conv_jax.operation import _jax_internals, _matching
from grouped_conv_jax.operation._description import Role
from grouped_conv_jax.operation._matching import match

BATCHES, CASES_OF_A_BATCH = 6, 30


def gradient(f, position):
    """The gradient of a nonlinear function of ``f``, in one of its operands."""
    return jax.grad(lambda *operands: jnp.sum(jnp.sin(f(*operands))), position)


def transformations(f):
    """What becomes of a convolution of two operands, and how many axes each operand gains."""
    dx, dw = gradient(f, 0), gradient(f, 1)
    return {
        "itself": (f, (0, 0)),
        "input gradient": (dx, (0, 0)),
        "filter gradient": (dw, (0, 0)),
        "input gradient's gradient in the filters": (gradient(dx, 1), (0, 0)),
        "input gradient's gradient in the input": (gradient(dx, 0), (0, 0)),
        "filter gradient's gradient in the input": (gradient(dw, 0), (0, 0)),
        "filter gradient's gradient in the filters": (gradient(dw, 1), (0, 0)),
        "mapped inputs": (jax.vmap(f, (0, None)), (1, 0)),
        "mapped filters": (jax.vmap(f, (None, 0)), (0, 1)),
        "mapped pairs": (jax.vmap(f), (1, 1)),
        "input gradients of mapped pairs": (jax.vmap(dx), (1, 1)),
        "filter gradients of mapped pairs": (jax.vmap(dw), (1, 1)),
        "input gradients, mapped filters": (jax.vmap(dx, (None, 0)), (0, 1)),
        "filter gradients, mapped inputs": (jax.vmap(dw, (0, None)), (1, 0)),
        "second derivatives of mapped pairs": (jax.vmap(gradient(dx, 1)), (1, 1)),
    }


NAMES = tuple(transformations(lax.mul))


def shuffled(letters, random):
    return "".join(random.permutation(list(letters)))


def kernel_axes(digits, random):
    """``I`` and ``O`` anywhere; the order of the others is that of strides and padding."""
    letters = list(digits)
    for letter in "IO":
        letters.insert(int(random.integers(len(letters) + 1)), letter)
    return "".join(letters)


def draw(random):
    """Shapes and arguments of a convolution with outputs, and its transformation."""
    while True:
        rank = int(random.integers(1, 4))
        digits = "123"[:rank]

        def every_axis(low, high, rank=rank):
            return tuple(int(n) for n in random.integers(low, high + 1, rank))

        image, taps = every_axis(2, 7), every_axis(1, 4)
        strides, dilation = every_axis(1, 3), every_axis(1, 2)
        padding = tuple(zip(every_axis(-1, 3), every_axis(-1, 3), strict=True))
        groups, channels, filters, batch = (
            int(random.integers(low, high)) for low, high in ((1, 5), (1, 4), (1, 4), (1, 4))
        )
        padded = [n + a + b for n, (a, b) in zip(image, padding, strict=True)]
        extent = [(k - 1) * d + 1 for k, d in zip(taps, dilation, strict=True)]
        left = [n + min(a, 0) + min(b, 0) for n, (a, b) in zip(image, padding, strict=True)]
        if min(left) > 0 and all(n >= e for n, e in zip(padded, extent, strict=True)):
            break
    sizes = dict(zip(digits, image, strict=True)) | {"N": batch, "C": groups * channels}
    kernel = dict(zip(digits, taps, strict=True)) | {"I": channels, "O": groups * filters}
    numbers = (
        shuffled("NC" + digits, random),
        kernel_axes(digits, random),
        shuffled("NC" + digits, random),
    )
    convolve = functools.partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=padding,
        rhs_dilation=dilation,
        dimension_numbers=numbers,
        feature_group_count=groups,
    )
    shapes = [tuple(sizes[a] for a in numbers[0]), tuple(kernel[a] for a in numbers[1])]
    return convolve, shapes


def equation(convolve, shapes, name):
    """The last convolution of a transformed one."""
    function, axes = transformations(convolve)[name]
    operands = [
        jax.ShapeDtypeStruct((3,) * more + shape, jnp.float64)
        for shape, more in zip(shapes, axes, strict=True)
    ]
    *_, last = _jax_internals.convolutions(jax.make_jaxpr(function)(*operands).jaxpr)
    return last


def compared(equation, random):
    """Compares an equation with its match, by NumPy; returns the role."""
    lhs, rhs = (variable.aval for variable in equation.invars)
    found = match(lhs, rhs, equation.params)
    assert not isinstance(found, str), found
    values = [random.standard_normal(aval.shape) for aval in (lhs, rhs)]
    compute = functools.partial(conv_general_dilated_p.bind, **equation.params)
    desired = jax.jit(compute, compiler_options=COMPILED_QUICKLY)(*values)
    operands = found.operands(*values)
    assert found.convolution.widths(found.role, *(operand.shape for operand in operands)) == (
        found.channels,
        found.filters,
    )
    result = reference.compute(found.role, *operands, found.convolution)
    np.testing.assert_allclose(
        found.result(result), desired, rtol=1e-12, atol=1e-12 * np.abs(desired).max()
    )
    return found.role


@pytest.mark.parametrize(
    "seed",
    [
        *range(BATCHES),
        *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(BATCHES, 3 * BATCHES)),
    ],
)
def test_matches_compute_what_lax_computes(seed, monkeypatch):
    # The algebra alone, without a compilation for each of its steps.
    monkeypatch.setattr(_matching, "jnp", np)
    random = np.random.default_rng(seed)
    names = itertools.islice(itertools.cycle(NAMES), CASES_OF_A_BATCH)
    with jax.enable_x64(True):
        roles = collections.Counter(
            compared(equation(*draw(random), name), random) for name in names
        )
    assert roles.total() == CASES_OF_A_BATCH
    # Of 15 transformations, each twice: no role falls back unseen.
    assert all(roles[role] >= 5 for role in Role), roles


def of(lhs=(2, 6, 5, 8), rhs=(3, 3, 2, 8), dtypes=("float32", "float32"), **arguments):
    numbers = ("NHWC", "HWIO", "NHWC")
    operands = [
        jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip((lhs, rhs), dtypes, strict=True)
    ]
    arguments = {
        "window_strides": (1, 1),
        "padding": ((0, 0), (0, 0)),
        "dimension_numbers": numbers,
        "feature_group_count": 4,
    } | arguments
    program = jax.make_jaxpr(lambda a, b: lax.conv_general_dilated(a, b, **arguments))(*operands)
    (equation,) = _jax_internals.convolutions(program.jaxpr)
    return match(*operands, equation.params)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"lhs": (2, 2, 5, 8)}, "no outputs"),
        ({"lhs": (0, 6, 5, 8)}, "one of its operands is empty"),
        ({"dtypes": ("int32", "int32")}, "int32"),
        ({"dtypes": ("complex64", "complex64")}, "splits a complex convolution into real ones"),
        (
            {"lhs_dilation": (2, 1), "window_strides": (1, 2)},
            "both its input and its output are strided",
        ),
        (
            {
                "lhs": (8, 6, 5, 2),
                "rhs": (3, 3, 2, 8),
                "feature_group_count": 1,
                "batch_group_count": 4,
                "lhs_dilation": (2, 1),
                "rhs_dilation": (1, 2),
            },
            "both of its operands are dilated",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_role_has_a_reason(arguments, reason):
    assert reason in of(**arguments)


def test_no_spatial_axis_is_a_reason():
    arguments = {"window_strides": (), "padding": (), "dimension_numbers": ("NC", "IO", "NC")}
    assert "no spatial axis" in of((2, 8), (2, 8), **arguments)


def test_sizes_must_be_known_but_for_the_images():
    batch, height = jax.export.symbolic_shape("batch, height")
    assert of((batch, 6, 5, 8)).role == Role.FORWARD
    assert of((2, height, 5, 8), padding=((1, 1), (1, 1))) == "not all of its sizes are known"
    # Of a filter gradient, images are summed over.
    found = of((8, 6, 5, batch), (4, 3, batch, 8), feature_group_count=1, batch_group_count=4)
    assert found.role == Role.FILTER_GRADIENT


def test_a_dense_filter_gradient_of_each_sample_is_a_filter_gradient_of_groups():
    def loss(w, x):
        y = lax.conv_general_dilated(
            x[None], w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(y**2)

    per_sample = jax.vmap(jax.grad(loss), (None, 0))
    operands = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((3, 3, 4, 6), (5, 8, 7, 4))]
    *_, last = _jax_internals.convolutions(jax.make_jaxpr(per_sample)(*operands).jaxpr)
    found = match(*(variable.aval for variable in last.invars), last.params)
    assert (found.role, found.convolution.groups) == (Role.FILTER_GRADIENT, 5)
    assert (found.convolution.filter_size, found.channels, found.filters) == ((3, 3), 4, 6)
