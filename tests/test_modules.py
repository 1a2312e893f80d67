"""What the Linen and the NNX module both compute, from which parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

import grouped_conv_jax
from grouped_conv_jax import initializers

LINEN, NNX = grouped_conv_jax.linen.GroupedConv2D, grouped_conv_jax.nnx.GroupedConv2D


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run_linen(x, *args, **kwargs):
    """The result, and the parameters by name."""
    y, variables = LINEN(*args, **kwargs).init_with_output(jax.random.key(0), x)
    return y, variables["params"]


def run_nnx(x, *args, **kwargs):
    channels = x.shape[kwargs.get("data_format", "BSSC").index("C") - 4]
    module = NNX(channels, *args, **kwargs, rngs=nnx.Rngs(0))
    return module(x), nnx.to_pure_dict(nnx.state(module))


both_run = pytest.mark.parametrize("run", [run_linen, run_nnx])


class TestComputation:
    @both_run
    @pytest.mark.parametrize(
        ("x_shape", "arguments", "long_form"),
        [
            ((2, 5, 6, 4), {}, {}),
            ((5, 6, 4), {"stride": (2, 1)}, {"stride": (2, 1)}),
            (
                (2, 5, 6, 4),
                {"padding": "same", "padding_value": "replicate"},
                {"sides": ((1, 1), (0, 1)), "padding_value": "replicate"},
            ),
            (
                (2, 4, 5, 6),
                {"dilation_factor": (1, 2), "padding": (0, 1, 2, 0), "data_format": "NCHW"},
                {"dilation": (1, 2), "sides": ((0, 1), (2, 0)), "data_format": "BCSS"},
            ),
        ],
    )
    def test_the_parameters_make_the_result(self, run, x_shape, arguments, long_form):
        x = random(*x_shape)
        y, parameters = run(x, (3, 2), 3, 2, bias_initializer="narrow-normal", **arguments)
        assert parameters["weights"].shape == (3, 2, 2, 3, 2)
        assert parameters["bias"].shape == (1, 1, 3, 2)
        expected = reference.grouped_conv(x, parameters["weights"], parameters["bias"], **long_form)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        ("dtype", "data_format", "use_bias"),
        [(None, "BSSC", True), (jnp.bfloat16, "BCSS", True), (jnp.float16, "BSSC", False)],
    )
    def test_linen_and_nnx_give_bitwise_the_same(self, dtype, data_format, use_bias):
        arguments = {
            "stride": 2,
            "padding": "same",
            "padding_value": "symmetric-exclude-edge",
            "use_bias": use_bias,
            "bias_initializer": "narrow-normal",
            "data_format": data_format,
            "dtype": dtype,
        }
        x = random(2, 4, 7, 4, seed=1)
        linen_module = LINEN(3, 3, 2, **arguments)
        variables = linen_module.init(jax.random.key(0), x)
        nnx_module = NNX(4, 3, 3, 2, **arguments, rngs=nnx.Rngs(1))
        nnx.update(nnx_module, variables["params"])
        y = nnx_module(x)
        assert y.dtype == (dtype or jnp.float32)
        np.testing.assert_array_equal(y, linen_module.apply(variables, x))
        np.testing.assert_array_equal(
            nnx.jit(NNX.__call__)(nnx_module, x), jax.jit(linen_module.apply)(variables, x)
        )

    @both_run
    def test_an_integer_filter_size_means_both_directions(self, run):
        _, parameters = run(random(2, 6, 6, 4), 3, 1, 4)
        assert parameters["weights"].shape == (3, 3, 1, 1, 4)

    @both_run
    def test_without_a_bias(self, run):
        x = random(2, 5, 5, 4)
        y, parameters = run(x, 3, 1, 2, use_bias=False)
        assert set(parameters) == {"weights"}
        expected = reference.grouped_conv(x, parameters["weights"])
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)

    @both_run
    def test_one_image_and_no_image(self, run):
        assert run(random(5, 5, 4), 3, 1, 2)[0].shape == (3, 3, 2)
        assert run(random(0, 5, 5, 4), 3, 1, 2)[0].shape == (0, 3, 3, 2)


class TestGroups:
    @both_run
    @pytest.mark.parametrize("word", ["channel-wise", "ChannelWise"])
    def test_channel_wise_is_a_group_a_channel(self, run, word):
        x = random(2, 5, 5, 6)
        y, parameters = run(x, 3, 2, word)
        assert parameters["weights"].shape == (3, 3, 1, 2, 6)
        expected = reference.grouped_conv(x, parameters["weights"])
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)

    def test_an_nnx_module_knows_the_numbers_at_once(self):
        module = NNX(6, 3, 2, "channel-wise", rngs=nnx.Rngs(0))
        assert (module.num_groups, module.num_channels_per_group) == (6, 1)

    def test_a_linen_module_takes_them_from_each_input(self):
        module = LINEN(3, 2, "channelwise")
        assert (module.num_groups, module.num_channels_per_group) == ("channel-wise", "auto")
        for channels in (2, 6):
            params = module.init(jax.random.key(0), random(4, 4, channels))["params"]
            assert params["weights"].shape == (3, 3, 1, 2, channels)


class TestDtypes:
    @both_run
    def test_parameters_are_float32_by_default(self, run):
        _, parameters = run(random(4, 4, 4), 3, 1, 2)
        assert {a.dtype for a in parameters.values()} == {np.dtype("float32")}

    @both_run
    @pytest.mark.parametrize("param_dtype", [jnp.bfloat16, "float16"])
    def test_param_dtype_is_that_of_the_parameters(self, run, param_dtype):
        y, parameters = run(random(4, 4, 4), 3, 1, 2, param_dtype=param_dtype, dtype=jnp.float32)
        assert {a.dtype for a in parameters.values()} == {jnp.dtype(param_dtype)}
        assert y.dtype == jnp.float32

    @both_run
    def test_dtype_is_that_of_the_computation_and_result(self, run):
        x = random(4, 4, 4)
        y, parameters = run(x, 3, 1, 2, dtype=jnp.bfloat16)
        assert {a.dtype for a in parameters.values()} == {np.dtype("float32")}
        assert y.dtype == jnp.bfloat16
        rounded = [np.asarray(jnp.asarray(a, jnp.bfloat16)) for a in (x, parameters["weights"])]
        expected = reference.grouped_conv(*rounded)
        # One rounding of the sum, by half of bfloat16's epsilon of 2**-7.
        np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=2**-8, atol=1e-6)

    @both_run
    def test_without_a_dtype_input_and_parameters_promote(self, run):
        x = jnp.asarray(random(4, 4, 4), jnp.bfloat16)
        with jax.numpy_dtype_promotion("standard"):
            assert run(x, 3, 1, 2)[0].dtype == jnp.float32
            assert run(x, 3, 1, 2, param_dtype=jnp.bfloat16)[0].dtype == jnp.bfloat16

    @both_run
    def test_float64(self, run):
        with jax.enable_x64(True):
            x = random(4, 4, 4).astype(np.float64)
            y, parameters = run(x, 3, 1, 2, param_dtype=jnp.float64)
            assert {a.dtype for a in parameters.values()} == {np.dtype("float64")}
        expected = reference.grouped_conv(x, parameters["weights"])
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


class TestFirstValues:
    @both_run
    def test_the_default_is_glorot_and_a_bias_of_zeros(self, run):
        _, parameters = run(random(4, 4, 64), 3, 8, 8)
        np.testing.assert_array_equal(parameters["bias"], 0)
        bound = np.sqrt(6 / (9 * 8 + 9 * 8))
        assert 0.99 * bound < np.abs(parameters["weights"]).max() <= bound

    @both_run
    def test_initial_arrays_are_taken_and_the_initializers_not_called(self, run):
        def never(*_):
            raise AssertionError("the initializer was called")

        weights, bias = random(3, 2, 2, 3, 2), random(1, 1, 3, 2, seed=1)
        _, parameters = run(
            random(4, 4, 4),
            (3, 2),
            3,
            2,
            initial_weights=weights,
            initial_bias=bias,
            weights_initializer=never,
            bias_initializer=never,
        )
        np.testing.assert_array_equal(parameters["weights"], weights)
        np.testing.assert_array_equal(parameters["bias"], bias)

    @both_run
    def test_initial_arrays_take_the_parameters_dtype(self, run):
        weights = jnp.asarray(random(1, 1, 4, 1, 1))
        _, parameters = run(
            random(4, 4, 4),
            1,
            1,
            1,
            initial_weights=weights,
            param_dtype="float16",
            dtype="float32",
        )
        np.testing.assert_array_equal(parameters["weights"], weights.astype(jnp.float16))

    @both_run
    def test_any_callable_initializes(self, run):
        calls = []

        def spy(key, shape, dtype):
            assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
            calls.append((shape, jnp.dtype(dtype)))
            return jnp.full(shape, len(calls), dtype)

        _, parameters = run(random(4, 4, 4), 3, 3, 2, weights_initializer=spy, bias_initializer=spy)
        assert calls == [((3, 3, 2, 3, 2), jnp.float32), ((1, 1, 3, 2), jnp.float32)]
        np.testing.assert_array_equal(parameters["weights"], 1)
        np.testing.assert_array_equal(parameters["bias"], 2)

    @both_run
    def test_an_initializer_of_jax_or_of_this_package(self, run):
        for initializer in (jax.nn.initializers.constant(2.5), initializers.ones):
            _, parameters = run(random(4, 4, 4), 3, 3, 2, weights_initializer=initializer)
            assert np.ptp(parameters["weights"]) == 0

    @both_run
    def test_weights_and_bias_get_keys_of_their_own(self, run):
        normal = jax.nn.initializers.normal(1.0)
        arguments = {"weights_initializer": normal, "bias_initializer": normal}
        _, parameters = run(random(1, 1, 1), 1, 1, 1, **arguments)
        assert parameters["weights"].ravel()[0] != parameters["bias"].ravel()[0]
