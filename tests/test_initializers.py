"""Initializers: the distributions that the names promise, with fans counted within a group."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grouped_conv_jax import initializers, linen

# (h, w, C, F, G): fan-in 3*2*4 = 24 and fan-out 3*2*8 = 48 within one of the 512 groups.
SHAPE = (3, 2, 4, 8, 512)
FAN_IN, FAN_OUT = 24, 48
SAMPLES = np.prod(SHAPE)


def sample(initializer, shape=SHAPE, seed=0):
    return np.asarray(initializer(jax.random.key(seed), shape, jnp.float32), np.float64)


def assert_moments(values, variance, kurtosis):
    """A mean of zero and this variance, to within five standard errors."""
    n = values.size
    assert abs(values.mean()) < 5 * np.sqrt(variance / n)
    # The variance of x^2 / variance is kurtosis - 1.
    assert abs(np.mean(values**2) / variance - 1) < 5 * np.sqrt((kurtosis - 1) / n)


class TestGlorot:
    def test_is_uniform_with_variance_two_over_the_sum_of_fans(self):
        values = sample(initializers.glorot)
        variance = 2 / (FAN_IN + FAN_OUT)
        assert_moments(values, variance, kurtosis=9 / 5)
        bound = np.sqrt(3 * variance)
        assert np.abs(values).max() <= bound
        # The maximum of n uniform samples falls short of the bound by bound / n in expectation.
        assert np.abs(values).max() > bound * (1 - 20 / SAMPLES)

    def test_fills_the_range_evenly(self):
        values = sample(initializers.glorot)
        bound = np.sqrt(6 / (FAN_IN + FAN_OUT))
        counts, _ = np.histogram(values, bins=16, range=(-bound, bound))
        expected = SAMPLES / 16
        assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))


class TestHe:
    def test_is_normal_with_variance_two_over_the_fan_in(self):
        assert_moments(sample(initializers.he), 2 / FAN_IN, kurtosis=3)

    def test_is_not_truncated(self):
        assert_not_truncated(sample(initializers.he) / np.sqrt(2 / FAN_IN))


class TestNarrowNormal:
    def test_is_normal_with_standard_deviation_one_hundredth(self):
        assert_moments(sample(initializers.narrow_normal), 0.01**2, kurtosis=3)

    def test_is_not_truncated(self):
        assert_not_truncated(sample(initializers.narrow_normal) / 0.01)

    def test_is_for_a_bias_too(self):
        assert_moments(sample(initializers.narrow_normal, (1, 1, 16, 4096)), 0.01**2, kurtosis=3)


def assert_not_truncated(standardized):
    """The share beyond two deviations is a normal's 4.55 %, and some go beyond four."""
    share, n = 0.0455002639, standardized.size
    beyond = np.mean(np.abs(standardized) > 2)
    assert abs(beyond - share) < 5 * np.sqrt(share * (1 - share) / n)
    assert np.abs(standardized).max() > 4


@pytest.mark.parametrize(
    ("initializer", "value", "shape"), [("zeros", 0, (3, 3, 2, 2, 2)), ("ones", 1, (1, 1, 4, 2))]
)
def test_constants(initializer, value, shape):
    values = getattr(initializers, initializer)(jax.random.key(0), shape, jnp.bfloat16)
    assert values.shape == shape
    assert values.dtype == jnp.bfloat16
    np.testing.assert_array_equal(values.astype(jnp.float32), value)


@pytest.mark.parametrize("groups", [1, 64])
@pytest.mark.parametrize(("initializer", "kurtosis"), [("glorot", 9 / 5), ("he", 3)])
def test_fans_do_not_depend_on_the_number_of_groups(initializer, kurtosis, groups):
    shape = (5, 3, 8, 16, groups)
    variance = {"glorot": 2 / (5 * 3 * 8 + 5 * 3 * 16), "he": 2 / (5 * 3 * 8)}[initializer]
    assert_moments(sample(getattr(initializers, initializer), shape), variance, kurtosis)


@pytest.mark.parametrize("name", ["glorot", "he", "narrow_normal", "zeros", "ones"])
class TestSignature:
    """That of JAX's own: ``(key, shape, dtype=float32)``."""

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
    def test_shape_and_dtype(self, name, dtype):
        with jax.enable_x64(True):
            values = getattr(initializers, name)(jax.random.key(0), (3, 3, 2, 2, 2), dtype)
        assert (values.shape, values.dtype) == ((3, 3, 2, 2, 2), dtype)

    def test_float32_by_default_and_under_jit(self, name):
        initializer = getattr(initializers, name)
        values = jax.jit(initializer, static_argnums=1)(jax.random.key(0), (3, 3, 2, 2, 2))
        assert values.dtype == jnp.float32
        eager = initializer(jax.random.key(0), (3, 3, 2, 2, 2))
        np.testing.assert_allclose(values, eager, rtol=1e-6)

    def test_one_key_one_result(self, name):
        initializer = getattr(initializers, name)
        first, again = (sample(initializer, (3, 3, 2, 2, 2), seed=1) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        if name not in ("zeros", "ones"):
            assert np.all(first != sample(initializer, (3, 3, 2, 2, 2), seed=2))


@pytest.mark.parametrize("name", ["glorot", "he"])
@pytest.mark.parametrize("shape", [(), (3, 3), (2, 8, 2), (1, 3, 3, 3, 2, 2, 2)])
def test_fans_need_four_to_six_axes(name, shape):
    with pytest.raises(ValueError, match=r"shape must have four to six axes .*, got \("):
        getattr(initializers, name)(jax.random.key(0), shape)


@pytest.mark.parametrize(
    ("word", "initializer"),
    [
        ("Glorot", initializers.glorot),
        ("HE", initializers.he),
        ("narrow-normal", initializers.narrow_normal),
        ("NarrowNormal", initializers.narrow_normal),
        ("zeros", initializers.zeros),
        ("ones", initializers.ones),
    ],
)
def test_words_in_any_case_mean_these(word, initializer):
    x, key = jnp.ones((4, 4, 4)), jax.random.key(3)
    by_word = linen.GroupedConv2D(3, 2, 2, weights_initializer=word).init(key, x)
    by_callable = linen.GroupedConv2D(3, 2, 2, weights_initializer=initializer).init(key, x)
    np.testing.assert_array_equal(by_word["params"]["weights"], by_callable["params"]["weights"])


def test_a_word_for_the_bias():
    layer = linen.GroupedConv2D(3, 2, 2, bias_initializer="ones")
    np.testing.assert_array_equal(
        layer.init(jax.random.key(3), jnp.ones((4, 4, 4)))["params"]["bias"], 1
    )
