"""Calls outside of a program are one compiled call each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import grouped_conv_jax as gcj

X, KERNEL = jnp.arange(36.0).reshape(1, 3, 3, 4), jnp.ones((2, 2, 1, 4))
NHWC = ("NHWC", "HWIO", "NHWC")


def drop_in(x=X, convolve=gcj.conv_general_dilated, **options):
    arguments = {"dimension_numbers": NHWC, "feature_group_count": 4} | options
    return convolve(x, KERNEL, [1, 1], "VALID", **arguments)


def function(x=X):
    return gcj.grouped_conv2d(x, KERNEL.reshape(2, 2, 1, 1, 4), jnp.zeros((1, 1, 1, 4)))


@pytest.mark.parametrize("call", [drop_in, function])
def test_equal_calls_compile_once(call):
    compiled = []

    def note(event, duration, **_):
        del duration
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        call()
        assert compiled
        compiled.clear()
        call()
        call()
    finally:
        jax.monitoring.clear_event_listeners()
    assert not compiled


@pytest.mark.parametrize("call", [drop_in, function])
def test_constants_of_a_program_are_convolved_as_its_arguments_are(call):
    of_constants, of_arguments = gcj.explain(lambda: call()), gcj.explain(call, X)
    assert [one.role for one in of_constants] == ["forward"]
    assert of_constants[0].implementation == of_arguments[0].implementation
    np.testing.assert_array_equal(jax.jit(lambda: call())(), call())


def test_an_argument_that_cannot_be_hashed_is_taken_as_lax_takes_it():
    expected = drop_in(convolve=lax.conv_general_dilated, dimension_numbers=list(NHWC))
    np.testing.assert_array_equal(drop_in(dimension_numbers=list(NHWC)), expected)


def test_numpy_arrays_are_taken_as_lax_takes_them():
    x = np.asarray(X)
    np.testing.assert_array_equal(drop_in(x), drop_in(x, lax.conv_general_dilated))


@pytest.mark.parametrize(
    ("strides", "padding"),
    [
        ((1.0, 1.0), "SAME"),
        ((1, 1), ((1.0, 1), (1, 1))),
        ((1, 1), [1, 1]),
        ((1, 1), None),
        ([-1, 1], "SAME"),
        ([1, 1, 1], "SAME"),
        (None, "SAME"),
        (jnp.array([1, 1]), "SAME"),
        ((True, True), "SAME"),
        ((np.int32(1), 1), np.ones((2, 2), int)),
    ],
)
def test_arguments_equal_to_earlier_ones_are_taken_as_lax_takes_them(strides, padding):
    def outcome(convolve):
        try:
            y = convolve(X, KERNEL, strides, padding, dimension_numbers=NHWC, feature_group_count=4)
        except (TypeError, ValueError) as error:
            return type(error), str(error).splitlines()[0]
        return y.tolist()

    # What has been compiled for integers must not answer for what is only equal to them.
    for earlier in ("SAME", ((1, 1), (1, 1))):
        gcj.conv_general_dilated(
            X, KERNEL, (1, 1), earlier, dimension_numbers=NHWC, feature_group_count=4
        )
    assert outcome(gcj.conv_general_dilated) == outcome(lax.conv_general_dilated)
