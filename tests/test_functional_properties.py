"""The whole space of arguments at random, against a NumPy loop."""

import functools

import cases
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grouped_conv_jax import grouped_conv2d


@pytest.mark.slow
@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(case=cases.convolutions(), dtype=st.sampled_from(cases.DTYPES))
def test_any_convolution_is_that_of_the_loop_to_rounding(case, dtype):
    arrays = case.arrays(dtype)
    expected = case.expected(arrays, dtype)
    convolve = functools.partial(grouped_conv2d, **case.spelled)
    with jax.enable_x64(dtype == "float64"):
        y = jax.jit(convolve, compiler_options=cases.COMPILED_QUICKLY)(*arrays)
    assert y.dtype == arrays[0].dtype
    assert y.shape == expected.shape
    error = np.abs(np.asarray(y, np.float64) - expected)
    assert np.all(error <= case.tolerance(arrays, dtype)), error.max(initial=0)
