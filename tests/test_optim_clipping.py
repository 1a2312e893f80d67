"""Clipping acts strictly above the threshold, by learnable, on all together or by element."""

import jax.numpy as jnp
import numpy as np
import pytest

from grouped_conv_jax.optim import clip_by_threshold

RNG = np.random.default_rng(0)


def clip(gradients, *args):
    tx = clip_by_threshold(*args)
    return tx.update(gradients, tx.init(gradients))[0]


def test_l2norm_is_the_default_and_takes_each_learnable_on_its_own():
    gradients = {"long": jnp.array([[6.0, 8.0]]), "short": jnp.array([3.0])}
    for clipped in (clip(gradients, 5.0), clip(gradients, 5.0, "l2norm")):
        np.testing.assert_allclose(clipped["long"], [[3.0, 4.0]], rtol=1e-6)
        np.testing.assert_array_equal(clipped["short"], [3.0])


def test_global_l2norm_scales_all_learnables_by_one_number():
    gradients = {"a": jnp.array([2.0, 4.0]), "b": jnp.array([[4.0]])}
    clipped = clip(gradients, 3.0, "global-l2norm")
    np.testing.assert_allclose(clipped["a"], [1.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(clipped["b"], [[2.0]], rtol=1e-6)


def test_absolute_value_clips_elements_and_keeps_signs():
    gradients = {"w": jnp.array([0.5, -0.5, 1.0, -3.0, 2.0])}
    clipped = clip(gradients, 1.0, "absolute-value")
    np.testing.assert_array_equal(clipped["w"], [0.5, -0.5, 1.0, -1.0, 1.0])


@pytest.mark.parametrize("method", ["l2norm", "global-l2norm"])
def test_a_norm_of_exactly_the_threshold_changes_no_bit(method):
    for _ in range(20):
        gradients = {"w": jnp.asarray(RNG.standard_normal(1000), jnp.float32)}
        norm = float(jnp.sqrt(jnp.sum(jnp.square(gradients["w"]))))
        clipped = clip(gradients, norm, method)
        np.testing.assert_array_equal(clipped["w"], gradients["w"])
        shorter = clip(gradients, norm * 0.999, method)
        assert float(jnp.linalg.norm(shorter["w"])) < norm


@pytest.mark.parametrize("method", ["l2norm", "global-l2norm", "absolute-value"])
def test_infinity_is_off_even_for_gradients_that_are_not_finite(method):
    gradients = {"a": jnp.array([jnp.inf, 1.0, jnp.nan]), "b": jnp.array([1e30])}
    clipped = clip(gradients, float("inf"), method)
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(clipped[name], gradient)


@pytest.mark.parametrize("method", ["l2norm", "global-l2norm"])
def test_a_zero_gradient_stays_zero(method):
    clipped = clip({"w": jnp.zeros(3)}, 1.0, method)
    np.testing.assert_array_equal(clipped["w"], [0.0, 0.0, 0.0])


@pytest.mark.parametrize("method", ["l2norm", "global-l2norm"])
def test_a_norm_that_overflows_float16_is_clipped_to_the_threshold(method):
    clipped = clip({"w": jnp.array([300.0, 400.0], jnp.float16)}, 5.0, method)
    assert clipped["w"].dtype == jnp.float16
    np.testing.assert_array_equal(clipped["w"], [3.0, 4.0])


@pytest.mark.parametrize("method", ["L2Norm", "l2norm", "GLOBAL-L2NORM", "absolutevalue"])
def test_methods_are_read_in_any_case_and_without_hyphens(method):
    clipped = clip({"w": jnp.array([2.0])}, 1.0, method)
    np.testing.assert_allclose(clipped["w"], [1.0], rtol=1e-6)
