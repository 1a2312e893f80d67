"""Bad input: each message starts with the argument's name and says what was received."""

import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bad_input import (
    BIAS,
    NO_ARRAYS,
    OF_ARRAYS,
    OF_FUNCTION_AND_MODULES,
    OF_MODULES,
    WEIGHTS,
    X,
)
from flax import nnx

import grouped_conv_jax
from grouped_conv_jax import grouped_conv2d

LINEN, NNX = grouped_conv_jax.linen.GroupedConv2D, grouped_conv_jax.nnx.GroupedConv2D


def linen_module(**changed):
    arguments = {"filter_size": (3, 2), "num_filters_per_group": 3, "num_groups": 2} | changed
    return LINEN(**arguments)


def nnx_module(num_channels=4, **changed):
    arguments = {"filter_size": (3, 2), "num_filters_per_group": 3, "num_groups": 2} | changed
    return NNX(num_channels, **arguments, rngs=nnx.Rngs(0))


def call_linen_module(x, **changed):
    return linen_module(**changed).init_with_output(jax.random.key(0), x)[0]


def call_nnx_module(x, **changed):
    return nnx_module(**changed)(x)


def message_of(error, call, *args, **kwargs):
    """The message of exactly this error, which the call must raise."""
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert caught.type is error, f"{caught.type} is not a plain {error}"
    return str(caught.value)


def assert_message(message, name, received):
    assert re.match(rf"{name}\b", message), message
    assert re.search(rf"got {re.escape(received)}(?![\w.])", message), message


def one_of_each(table):
    """The first row of each argument."""
    return list({row[0]: row for row in reversed(table)}.values())


@pytest.mark.parametrize(("name", "value", "error", "received"), OF_FUNCTION_AND_MODULES)
def test_hyperparameters_of_the_function(name, value, error, received):
    message = message_of(error, grouped_conv2d, X, WEIGHTS, BIAS, **{name: value})
    assert_message(message, name, received)


@pytest.mark.parametrize(("name", "value", "error", "received"), OF_MODULES)
def test_hyperparameters_of_the_modules(name, value, error, received):
    assert_message(message_of(error, linen_module, **{name: value}), name, received)


@pytest.mark.parametrize(("name", "changed", "error", "received"), OF_ARRAYS + NO_ARRAYS)
def test_arrays_of_the_function(name, changed, error, received):
    arguments = {"x": X, "weights": WEIGHTS, "bias": BIAS} | changed
    assert_message(message_of(error, grouped_conv2d, **arguments), name, received)


class TestEveryDoor:
    """One bad value of each argument, at each door that leads to the same check."""

    @pytest.mark.parametrize(
        ("name", "value", "error", "received"), one_of_each(OF_FUNCTION_AND_MODULES)
    )
    def test_of_function_and_modules(self, name, value, error, received):
        jitted = jax.jit(lambda *arrays: grouped_conv2d(*arrays, **{name: value}))
        assert_message(message_of(error, jitted, X, WEIGHTS, BIAS), name, received)
        for construct in (linen_module, nnx_module):
            assert_message(message_of(error, construct, **{name: value}), name, received)

    @pytest.mark.parametrize(("name", "value", "error", "received"), one_of_each(OF_MODULES))
    def test_of_nnx_modules(self, name, value, error, received):
        assert_message(message_of(error, nnx_module, **{name: value}), name, received)

    @pytest.mark.parametrize(("name", "changed", "error", "received"), one_of_each(OF_ARRAYS))
    def test_of_arrays_while_jit_traces(self, name, changed, error, received):
        arguments = {"x": X, "weights": WEIGHTS, "bias": BIAS} | changed
        arrays = {name: jnp.asarray(arguments.pop(name)) for name in ("x", "weights", "bias")}
        eager = message_of(error, grouped_conv2d, **arrays, **arguments)
        jitted = jax.jit(lambda arrays: grouped_conv2d(**arrays, **arguments))
        assert message_of(error, jitted, arrays) == eager
        assert_message(eager, name, received)

    @pytest.mark.parametrize("name", ["stride", "dilation_factor", "padding", "padding_value"])
    def test_a_hyperparameter_that_is_traced(self, name):
        traced = jax.jit(lambda value: grouped_conv2d(X, WEIGHTS, **{name: value}))
        message = message_of(TypeError, traced, 1)
        assert re.match(rf"{name} must be .*, got .*int32\[\]", message), message


class TestModulesInput:
    """What both modules find out when they see the input; ``dtype`` must not hide it."""

    @pytest.fixture(params=[call_linen_module, call_nnx_module])
    def call(self, request):
        return request.param

    @pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
    @pytest.mark.parametrize(
        ("x", "error", "received"),
        [
            (X[0, 0], ValueError, "shape (6, 4)"),
            (X.astype(np.int32), TypeError, "int32"),
            (X.tolist(), TypeError, "list"),
        ],
    )
    def test_the_kind_and_the_shape_of_x(self, call, dtype, x, error, received):
        assert_message(message_of(error, call, x, dtype=dtype), "x", received)

    def test_a_filter_that_does_not_fit(self, call):
        message = message_of(ValueError, call, X, filter_size=(6, 2))
        assert_message(message, "weights", "a padded image of size (5, 6)")

    def test_a_mirror_longer_than_the_image(self, call):
        message = message_of(ValueError, call, X, padding=6, padding_value="symmetricincludeedge")
        assert_message(message, "padding", "(6, 6)")


def test_groups_that_do_not_divide_the_channels_of_the_input():
    x = np.ones((2, 16, 16, 8), np.float32)
    expected = (
        "num_groups=3 must divide the number of input channels, "
        'got 8 channels in x of shape (2, 16, 16, 8) (data_format "BSSC")'
    )
    assert message_of(ValueError, call_linen_module, x, num_groups=3) == expected
    model = linen_module(num_groups=3)
    assert message_of(ValueError, jax.jit(model.init), jax.random.key(0), x) == expected
    # An NNX module that has been built knows its channels; another input does not fit them.
    assert message_of(ValueError, call_nnx_module, x, num_channels=9, num_groups=3) == expected


def test_groups_that_do_not_divide_the_channels_an_nnx_module_is_built_for():
    message = message_of(ValueError, nnx_module, num_channels=8, num_groups=3)
    assert message == ("num_groups=3 must divide the number of input channels, got num_channels=8")


@pytest.mark.parametrize("call", [call_linen_module, call_nnx_module])
def test_channels_per_group_that_are_not_those_of_the_input(call):
    message = message_of(ValueError, call, X, num_channels_per_group=3)
    assert message.startswith(
        "num_channels_per_group=3 must be the number of input channels / num_groups = 2, got "
    )


def test_more_channels_than_an_nnx_module_was_built_for():
    x = np.ones((5, 6, 8), np.float32)
    message = message_of(ValueError, call_nnx_module, x, num_channels=4)
    assert message == (
        "num_channels_per_group=2 must be the number of input channels / num_groups = 4, "
        'got 8 channels in x of shape (5, 6, 8) (data_format "BSSC")'
    )


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (4.0, TypeError),
        ("auto", TypeError),
    ],
)
def test_the_number_of_channels_of_an_nnx_module(value, error):
    assert_message(message_of(error, nnx_module, num_channels=value), "num_channels", repr(value))


@pytest.mark.parametrize("rngs", [None, 0, jax.random.key(0)])
def test_something_else_than_rngs(rngs):
    message = message_of(TypeError, lambda: NNX(4, 3, 1, 2, rngs=rngs))
    assert_message(message, "rngs", type(rngs).__name__)


@pytest.mark.parametrize("construct", [linen_module, nnx_module])
class TestArgumentsThatContradictEachOther:
    def test_channel_wise_with_more_than_one_channel_per_group(self, construct):
        message = message_of(
            ValueError, construct, num_groups="channel-wise", num_channels_per_group=2
        )
        assert_message(message, "num_channels_per_group", "2")

    def test_an_initial_bias_without_a_bias(self, construct):
        message = message_of(ValueError, construct, use_bias=False, initial_bias=BIAS)
        assert_message(message, "initial_bias", "an array")

    def test_initial_weights_of_other_channels_per_group(self, construct):
        message = message_of(
            ValueError, construct, num_channels_per_group=1, initial_weights=WEIGHTS
        )
        assert_message(message, "initial_weights", "(3, 2, 2, 3, 2)")


@pytest.mark.parametrize("call", [call_linen_module, call_nnx_module])
def test_initial_weights_that_do_not_fit_the_input(call):
    weights = np.ones((3, 2, 1, 3, 2), np.float32)
    message = message_of(ValueError, call, X, initial_weights=weights)
    assert_message(message, "initial_weights", "(3, 2, 1, 3, 2)")


@pytest.mark.parametrize("call", [call_linen_module, call_nnx_module])
@pytest.mark.parametrize("name", ["weights", "bias"])
class TestInitializersThatReturnSomethingElse:
    @pytest.mark.parametrize("shape", [(), (3, 2), (1, 3, 2, 2, 3, 2)])
    def test_another_shape(self, call, name, shape):
        changed = {f"{name}_initializer": lambda *_: jnp.zeros(shape)}
        assert_message(message_of(ValueError, call, X, **changed), name, str(shape))

    @pytest.mark.parametrize(("result", "received"), [(None, "NoneType"), ([[1.0]], "list")])
    def test_no_array(self, call, name, result, received):
        changed = {f"{name}_initializer": lambda *_: result}
        assert_message(message_of(TypeError, call, X, **changed), name, received)

    def test_integers(self, call, name):
        changed = {f"{name}_initializer": lambda _, shape, __: jnp.zeros(shape, int)}
        assert_message(message_of(TypeError, call, X, dtype=jnp.float32, **changed), name, "int32")


class TestParametersThatDoNotBelong:
    """State from elsewhere: an older checkpoint, another layer."""

    def test_a_linen_module_is_given_weights_of_another_shape(self):
        params = {"weights": np.ones((3, 3, 2, 3, 2), np.float32), "bias": BIAS}
        message = message_of(ValueError, linen_module().apply, {"params": params}, X)
        assert_message(message, "weights", "(3, 3, 2, 3, 2)")

    def test_a_linen_module_is_given_a_bias_of_another_shape(self):
        params = {"weights": WEIGHTS, "bias": BIAS[..., :1]}
        message = message_of(ValueError, linen_module().apply, {"params": params}, X)
        assert_message(message, "bias", "(1, 1, 3, 1)")

    def test_a_linen_module_without_parameters_gets_flaxs_error(self):
        with pytest.raises(flax.errors.ScopeParamNotFoundError, match="weights"):
            linen_module().apply({"params": {"bias": BIAS}}, X)

    @pytest.mark.parametrize(
        ("name", "shape"), [("weights", (3, 3, 2, 3, 2)), ("bias", (1, 1, 3, 1))]
    )
    def test_an_nnx_module_is_given_another_shape(self, name, shape):
        module = nnx_module()
        setattr(module, name, nnx.Param(jnp.ones(shape)))
        assert_message(message_of(ValueError, module, X), name, str(shape))

    @pytest.mark.parametrize("dtype", [None, jnp.float32])
    @pytest.mark.parametrize("name", ["weights", "bias"])
    def test_integers_are_refused_whatever_the_dtype_of_the_computation(self, name, dtype):
        params = {"weights": WEIGHTS, "bias": BIAS}
        params[name] = params[name].astype(np.int32)
        linen = linen_module(dtype=dtype)
        assert_message(message_of(TypeError, linen.apply, {"params": params}, X), name, "int32")
        module = nnx_module(dtype=dtype)
        setattr(module, name, nnx.Param(params[name]))
        assert_message(message_of(TypeError, module, X), name, "int32")
