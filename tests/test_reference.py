"""The float64 reference of tests and benchmarks: a loop over pixels, and the adjoints of that."""

import numpy as np
import pytest
import reference as loop
from implementation_cases import CASES

from grouped_conv_jax.benchmarks import reference
from grouped_conv_jax.operation._description import Role

NAMES = (
    "depthwise with multiplier",
    "wide groups, strided and dilated",
    "strided past the filter",
    "stride and dilation coprime",
    "windows in the padding",
    "nothing but padding",
    "cropped",
    "no image",
    "filter larger than the image",
    "1-D",
    "3-D",
)


def compute(case, role, arrays):
    lhs, rhs = (arrays[operand] for operand in role.operands)
    return reference.compute(role, lhs, rhs, case.convolution)


def convolved_by_loop(case, x, filters):
    """In the layout of the function; negative padding crops."""
    padded = loop.pad(x, [(max(before, 0), max(after, 0)) for before, after in case.padding], 0)
    kept = [slice(max(-before, 0), min(after, 0) or None) for before, after in case.padding]
    shape = *case.filter_size, case.channels // case.groups, case.groups, -1
    weights = np.swapaxes(filters.reshape(shape), -1, -2)
    return loop.grouped_conv(padded[:, *kept], weights, stride=case.stride, dilation=case.dilation)


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_a_loop_over_pixels_and_gradients_are_its_adjoints(name):
    case, random = CASES[name], np.random.default_rng(0)
    arrays = {role: random.standard_normal(case.shape(role)) for role in Role}
    y = compute(case, Role.FORWARD, arrays)
    assert y.shape == arrays[Role.FORWARD].shape
    if y.size:
        by_loop = convolved_by_loop(case, arrays[Role.INPUT_GRADIENT], arrays[Role.FILTER_GRADIENT])
        np.testing.assert_allclose(y, by_loop, rtol=1e-12, atol=1e-12)
    product = np.vdot(y, arrays[Role.FORWARD])
    for role in (Role.INPUT_GRADIENT, Role.FILTER_GRADIENT):
        gradient = compute(case, role, arrays)
        assert gradient.shape == arrays[role].shape
        np.testing.assert_allclose(np.vdot(gradient, arrays[role]), product, rtol=1e-10, atol=1e-10)


def test_padding_is_not_multiplied():
    case = CASES["one pixel"]
    filters = np.ones(case.shape(Role.FILTER_GRADIENT))
    filters[0] = np.inf
    y = reference.compute(
        Role.FORWARD, np.ones(case.shape(Role.INPUT_GRADIENT)), filters, case.convolution
    )
    np.testing.assert_array_equal(y, 1)
