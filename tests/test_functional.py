"""What the pure function promises, one promise a test."""

import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from grouped_conv_jax import grouped_conv2d


def random(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def assert_is_the_loop(x, weights, bias=None, spelled=None, **long_form):
    """Compares in float64; ``spelled`` is how the package is told, ``long_form`` the reference."""
    x, weights = np.asarray(x, np.float64), np.asarray(weights, np.float64)
    with jax.enable_x64(True):
        y = grouped_conv2d(x, weights, bias, **(spelled or {}))
    expected = reference.grouped_conv(x, weights, bias, **long_form)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


class TestOperation:
    def test_filters_are_not_flipped(self):
        x = jnp.asarray([[1.0, 2.0, 3.0]])[:, :, None]
        weights = jnp.asarray([10.0, 1.0]).reshape(1, 2, 1, 1, 1)
        np.testing.assert_array_equal(grouped_conv2d(x, weights).ravel(), [12.0, 23.0])

    def test_output_channels_are_group_major(self):
        # Filter f of group g returns 10 g + f whatever it sees, of an image of ones.
        weights = jnp.asarray([[0.0, 10.0, 20.0], [1.0, 11.0, 21.0]]).reshape(1, 1, 1, 2, 3)
        y = grouped_conv2d(jnp.ones((1, 1, 3)), weights)
        np.testing.assert_array_equal(y.ravel(), [0, 1, 10, 11, 20, 21])

    def test_each_group_sees_its_own_channels_alone(self):
        x = jnp.asarray([1.0, 10.0, 100.0, 1000.0]).reshape(1, 1, 4)
        y = grouped_conv2d(x, jnp.ones((1, 1, 2, 1, 2)))
        np.testing.assert_array_equal(y.ravel(), [11, 1100])

    def test_bias_belongs_to_filter_and_group(self):
        bias = jnp.arange(6.0).reshape(1, 1, 2, 3)
        y = grouped_conv2d(jnp.zeros((2, 2, 3)), jnp.ones((1, 1, 1, 2, 3)), bias)
        np.testing.assert_array_equal(y[0, 0], [0, 3, 1, 4, 2, 5])

    @pytest.mark.parametrize(
        "weights_shape",
        [
            (3, 3, 6, 2, 1),  # one group: an ordinary convolution
            (2, 4, 3, 2, 2),
            (3, 3, 1, 3, 6),  # as many groups as channels, and more filters than one each
        ],
    )
    def test_groups_and_depth_multipliers(self, weights_shape):
        bias = random(1, 1, *weights_shape[3:], seed=2, dtype=np.float64)
        assert_is_the_loop(random(2, 5, 6, 6), random(*weights_shape, seed=1), bias)

    def test_a_filter_larger_than_the_input_needs_padding(self):
        x, weights = random(2, 3, 2), random(5, 6, 1, 1, 2, seed=1)
        assert_is_the_loop(x, weights, spelled={"padding": 2}, sides=((2, 2), (2, 2)))
        with pytest.raises(ValueError, match="weights must fit into the padded image"):
            grouped_conv2d(x, weights, padding=1)


class TestDataFormat:
    @pytest.mark.slow
    def test_every_permutation_gives_the_same_numbers(self):
        x = random(2, 3, 2, 4, 3, 4)  # B, T, U, H, W, C
        weights = random(2, 2, 2, 1, 2, seed=1)
        canonical = reference.grouped_conv(x, weights, stride=(2, 1))

        def arranged(array, data_format):
            """One entry along the axes that the format lacks; the others in its order."""
            kept = [letter for letter in "BTU" if letter in data_format]
            array = array[tuple(slice(None) if c in kept else 0 for c in "BTU")]
            places = {"C": len(kept) + 2} | {letter: i for i, letter in enumerate(kept)}
            images = iter((len(kept), len(kept) + 1))
            return array.transpose([next(images) if c == "S" else places[c] for c in data_format])

        # All at once: compiling one by one takes three times as long.
        @functools.partial(jax.jit, compiler_options=cases.COMPILED_QUICKLY)
        def convolve(x, weights):
            return {
                data_format: grouped_conv2d(
                    arranged(x, data_format), weights, stride=(2, 1), data_format=data_format
                )
                for data_format in cases.DATA_FORMATS
            }

        for data_format, y in convolve(x, weights).items():
            np.testing.assert_allclose(
                y, arranged(canonical, data_format), rtol=1e-5, atol=1e-5, err_msg=data_format
            )

    @pytest.mark.parametrize("alias", ["NHWC", "NCHW"])
    def test_the_usual_names_are_aliases(self, alias):
        x, weights = random(2, 4, 4, 4), random(2, 2, 1, 1, 4)
        np.testing.assert_array_equal(
            grouped_conv2d(x, weights, data_format=alias),
            grouped_conv2d(x, weights, data_format=cases.ALIASES[alias]),
        )

    @pytest.mark.parametrize(
        ("data_format", "leading"),
        [("BSSC", ()), ("BSSC", (2, 1, 3)), ("BSSC", (2, 0)), ("BCSS", (2, 3)), ("BTSSC", ())],
    )
    def test_a_leading_batch_is_any_number_of_axes(self, data_format, leading):
        image = {"BSSC": (4, 3, 2), "BCSS": (2, 4, 3), "BTSSC": (2, 4, 3, 2)}[data_format]
        x, weights = random(*leading, *image), random(2, 2, 1, 2, 2, seed=1)
        y = grouped_conv2d(x, weights, padding="same", data_format=data_format)
        assert y.shape[: len(leading)] == leading
        expected = reference.grouped_conv(
            x, weights, sides=((0, 1), (0, 1)), data_format=data_format
        )
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)

    def test_a_batch_that_does_not_lead_is_one_axis(self):
        weights = jnp.ones((1, 1, 1, 1, 2))
        assert grouped_conv2d(jnp.ones((4, 3, 2, 5)), weights, data_format="SSCB").ndim == 4
        with pytest.raises(ValueError, match=r"x must have 4 axes .*'SSCB', got shape \(4, 3, 2\)"):
            grouped_conv2d(jnp.ones((4, 3, 2)), weights, data_format="SSCB")


class TestDtypes:
    @pytest.mark.parametrize(
        ("x", "weights", "bias", "result"),
        [
            ("float64", "float64", "float64", "float64"),
            ("float32", "float32", "float32", "float32"),
            ("bfloat16", "bfloat16", "bfloat16", "bfloat16"),
            ("float16", "float16", "float16", "float16"),
            ("bfloat16", "float32", "float32", "float32"),
            ("float32", "float16", "float16", "float32"),
            ("bfloat16", "float16", None, "float32"),
            ("bfloat16", "bfloat16", "float32", "float32"),
            ("float16", "float64", None, "float64"),
        ],
    )
    def test_arguments_promote_by_the_rules_of_jax(self, x, weights, bias, result):
        arrays = [
            None if dtype is None else random(*shape).astype(cases.dtype_of(dtype))
            for shape, dtype in (((4, 4, 2), x), ((2, 2, 1, 1, 2), weights), ((1, 1, 1, 2), bias))
        ]
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            assert grouped_conv2d(*arrays).dtype == cases.dtype_of(result)

    def test_strict_promotion_refuses_a_mixture(self):
        with pytest.raises(ValueError, match="no available implicit dtype promotion path"):
            grouped_conv2d(jnp.ones((2, 2, 1)), jnp.ones((1, 1, 1, 1, 1), jnp.bfloat16))

    # In 8 bits of significand counting by ones ends at 256, in 11 bits at 2048.
    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_sums_over_16_bit_inputs_accumulate_in_float32(self, dtype):
        x, weights = jnp.ones((64, 64, 4), dtype), jnp.ones((64, 64, 2, 1, 2), dtype)
        y = grouped_conv2d(x, weights)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y.astype(jnp.float32), 8192)

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_the_preferred_element_type_is_that_of_the_result(self, dtype):
        x, weights = jnp.ones((2, 2, 1), dtype), jnp.full((2, 2, 1, 1, 1), 1.0, dtype)
        bias = jnp.full((1, 1, 1, 1), 2.0**-20, dtype)
        y = grouped_conv2d(x, weights, bias, preferred_element_type=jnp.float32)
        assert y.dtype == jnp.float32
        np.testing.assert_array_equal(y.ravel(), [4 + np.float32(2.0**-20)])

    @pytest.mark.parametrize("weights_shape", [(3, 3, 2, 3, 1), (1, 1, 8, 9, 1), (2, 3, 8, 9, 4)])
    def test_precision_reaches_the_convolution(self, weights_shape):
        x = jnp.ones((4, 4, weights_shape[2] * weights_shape[4]))
        convolve = jax.jit(functools.partial(grouped_conv2d, precision="highest"))
        exported = jax.export.export(convolve)(x, jnp.ones(weights_shape))
        assert "HIGHEST" in exported.mlir_module()
