"""Weights of other frameworks compute in our layout what they compute in their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import linen, nnx

from grouped_conv_jax import convert

H, W, CHANNELS, FILTERS, GROUPS = 3, 2, 2, 5, 4


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_torch_computes_the_same_with_a_kernel_from_oihw():
    torch = pytest.importorskip("torch", reason="PyTorch comes with the tests on Python 3.11 only")
    x = random(2, 5, 6, CHANNELS * GROUPS)
    kernel = random(GROUPS * FILTERS, CHANNELS, H, W, seed=1)
    bias = random(GROUPS * FILTERS, seed=2)
    expected = torch.nn.functional.conv2d(
        torch.tensor(x.transpose(0, 3, 1, 2)),
        torch.tensor(kernel),
        torch.tensor(bias),
        groups=GROUPS,
    )
    weights = convert.from_oihw(kernel, GROUPS)
    y = reference.grouped_conv(x, weights, convert.from_bias_vector(bias, GROUPS))
    np.testing.assert_allclose(y, expected.numpy().transpose(0, 2, 3, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_flax_computes_the_same_with_a_kernel_from_hwio(api):
    x = random(2, 5, 6, CHANNELS * GROUPS).astype(np.float32)
    kernel = random(H, W, CHANNELS, GROUPS * FILTERS, seed=1).astype(np.float32)
    bias = random(GROUPS * FILTERS, seed=2).astype(np.float32)
    features, options = GROUPS * FILTERS, {"padding": "VALID", "feature_group_count": GROUPS}
    if api == "linen":
        layer = linen.Conv(features, (H, W), **options)
        expected = layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    else:
        layer = nnx.Conv(x.shape[-1], features, (H, W), rngs=nnx.Rngs(0), **options)
        layer.kernel[...], layer.bias[...] = jnp.asarray(kernel), jnp.asarray(bias)
        expected = layer(jnp.asarray(x))
    weights = convert.from_hwio(kernel, GROUPS)
    y = reference.grouped_conv(x, weights, convert.from_bias_vector(bias, GROUPS))
    np.testing.assert_allclose(y, np.asarray(expected), rtol=1e-5, atol=1e-5)


def test_keras_depthwise_computes_the_same():
    channels, multiplier = 3, 2
    x = random(2, 5, 6, channels)
    kernel = random(H, W, channels, multiplier, seed=1)
    # Keras: output channel c * multiplier + q is channel c filtered with kernel[:, :, c, q].
    expected = np.zeros((2, 5 - H + 1, 6 - W + 1, channels * multiplier))
    for c in range(channels):
        for q in range(multiplier):
            for i in range(expected.shape[1]):
                for j in range(expected.shape[2]):
                    patch = x[:, i : i + H, j : j + W, c]
                    expected[:, i, j, c * multiplier + q] = np.sum(
                        patch * kernel[:, :, c, q], axis=(1, 2)
                    )
    weights = convert.from_keras_depthwise(kernel)
    y = reference.grouped_conv(x, weights, np.zeros((1, 1, multiplier, channels)))
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


def test_bias_is_group_major():
    bias = np.arange(GROUPS * FILTERS)
    converted = convert.from_bias_vector(bias, GROUPS)
    assert converted.shape == (1, 1, FILTERS, GROUPS)
    for g in range(GROUPS):
        for f in range(FILTERS):
            assert converted[0, 0, f, g] == g * FILTERS + f


# Theirs to ours, ours to theirs, and the shape of theirs.
PAIRS = {
    "hwio": (
        lambda kernel: convert.from_hwio(kernel, GROUPS),
        convert.to_hwio,
        (H, W, CHANNELS, GROUPS * FILTERS),
        (H, W, CHANNELS, FILTERS, GROUPS),
    ),
    "oihw": (
        lambda kernel: convert.from_oihw(kernel, GROUPS),
        convert.to_oihw,
        (GROUPS * FILTERS, CHANNELS, H, W),
        (H, W, CHANNELS, FILTERS, GROUPS),
    ),
    "keras_depthwise": (
        convert.from_keras_depthwise,
        convert.to_keras_depthwise,
        (H, W, GROUPS, FILTERS),
        (H, W, 1, FILTERS, GROUPS),
    ),
    "matlab": (
        lambda array: convert.from_matlab(array, (H, W), CHANNELS, FILTERS, GROUPS),
        convert.to_matlab,
        (H, W, CHANNELS, FILTERS, GROUPS),
        (H, W, CHANNELS, FILTERS, GROUPS),
    ),
    "bias_vector": (
        lambda bias: convert.from_bias_vector(bias, GROUPS),
        convert.to_bias_vector,
        (GROUPS * FILTERS,),
        (1, 1, FILTERS, GROUPS),
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_numpy_there_and_back_is_the_same_array(pair, dtype):
    ours, theirs, their_shape, our_shape = PAIRS[pair]
    array = np.arange(np.prod(their_shape)).reshape(their_shape).astype(jnp.dtype(dtype))
    converted = ours(array)
    assert type(converted) is np.ndarray
    assert (converted.dtype, converted.shape) == (array.dtype, our_shape)
    returned = theirs(converted)
    assert type(returned) is np.ndarray
    assert returned.dtype == array.dtype
    np.testing.assert_array_equal(returned, array)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("transform", [lambda function: function, jax.jit], ids=["plain", "jit"])
def test_jax_arrays_give_jax_arrays_with_the_values_of_numpy(pair, transform):
    ours, theirs, their_shape, _ = PAIRS[pair]
    array = random(*their_shape).astype(np.float32)
    converted = transform(ours)(jnp.asarray(array))
    assert isinstance(converted, jax.Array)
    np.testing.assert_array_equal(converted, ours(array))
    returned = transform(theirs)(converted)
    assert isinstance(returned, jax.Array)
    np.testing.assert_array_equal(returned, array)


@pytest.mark.parametrize(
    ("stored", "sizes"),
    [
        ((3, 2, 2, 5, 4), ((3, 2), 2, 5, 4)),
        ((3, 2, 2, 5), ((3, 2), 2, 5, 1)),
        ((3, 3, 2), (3, 2, 1, 1)),
        ((3, 3), (3, 1, 1, 1)),
        ((3, 1), ((3, 1), 1, 1, 1)),
        ((1, 1), (1, 1, 1, 1)),
        ((3, 3, 2, 1), (3, 2, 1, 1)),
    ],
)
def test_from_matlab_restores_trailing_ones(stored, sizes):
    array = random(*stored)
    restored = convert.from_matlab(array, *sizes)
    size, *others = sizes
    assert restored.shape == (*(size if isinstance(size, tuple) else (size, size)), *others)
    np.testing.assert_array_equal(restored.ravel(), array.ravel())


KERNEL, WEIGHTS = np.zeros((3, 3, 2, 10)), np.zeros((3, 3, 2, 1, 4))
DIVIDES = "must divide the number of output channels, got 10 in"
AXES = r"weights must have the axes \(h, w, channels_per_group, filters_per_group, groups\).*got"
SIZE = r"array must have size \(3, 3, 2, {}, 1\), trailing ones optional, got"
POSITIVE = "must be a positive integer, got"
BAD_VALUES = [
    (lambda: convert.from_hwio(KERNEL, 4), rf"groups=4 {DIVIDES} kernel of shape \(3, 3, 2, 10\)"),
    (lambda: convert.from_oihw(KERNEL.T, 3), rf"groups=3 {DIVIDES} kernel of shape \(10, 2, 3, 3"),
    (lambda: convert.from_bias_vector(np.zeros(10), 3), rf"groups=3 {DIVIDES} bias of shape \(10,"),
    (lambda: convert.from_hwio(KERNEL, 0), f"groups {POSITIVE} 0"),
    (
        lambda: convert.from_hwio(KERNEL[..., 0], 1),
        r"kernel must have the axes \(h, w, channels_per_group, groups \* filters_per_group\), "
        r"none of them empty, got shape \(3, 3, 2\)",
    ),
    (lambda: convert.from_oihw(KERNEL.T[:, :0], 1), r"none of them empty, got shape \(10, 0, 3, 3"),
    (
        lambda: convert.from_keras_depthwise(WEIGHTS),
        r"kernel must have the axes \(h, w, channels, depth_multiplier\).*shape \(3, 3, 2, 1, 4\)",
    ),
    (
        lambda: convert.to_keras_depthwise(WEIGHTS),
        r"weights must have one channel per group to be depthwise, got 2 in weights of shape \(3,",
    ),
    (lambda: convert.from_matlab(KERNEL, 3, 2, 5, 1), SIZE.format(5)),
    (lambda: convert.from_matlab(KERNEL[..., None, None], 3, 2, 10, 1), SIZE.format(10)),
    (lambda: convert.from_matlab(KERNEL, 3, 1, -1, 1), f"num_filters_per_group {POSITIVE} -1"),
    (
        lambda: convert.from_bias_vector(np.zeros((1, 10)), 2),
        r"bias must have the axes \(groups \* filters_per_group,\).*got shape \(1, 10\)",
    ),
    (
        lambda: convert.to_bias_vector(np.zeros((2, 1, 5, 4))),
        r"bias must have the axes \(1, 1, filters_per_group, groups\), got shape \(2, 1, 5, 4\)",
    ),
    (lambda: convert.to_hwio(KERNEL), AXES),
    (lambda: convert.to_oihw(KERNEL), AXES),
    (lambda: convert.to_keras_depthwise(KERNEL), AXES),
    (lambda: convert.to_matlab(KERNEL), AXES),
]
ARRAY = "must be a NumPy or a JAX array, got"
BAD_KINDS = [
    (lambda: convert.from_hwio([[[[1.0]]]], 1), f"kernel {ARRAY} list"),
    (lambda: convert.from_matlab(5.0, 1, 1, 1, 1), f"array {ARRAY} float"),
    (lambda: convert.to_bias_vector(None), f"bias {ARRAY} None"),
    (lambda: convert.from_hwio(KERNEL, True), f"groups {POSITIVE} True"),
    (lambda: convert.from_matlab(KERNEL, 3.0, 1, 1, 1), "filter_size must be a positive .*got 3.0"),
]


@pytest.mark.parametrize(
    ("call", "message", "error"),
    [(*case, ValueError) for case in BAD_VALUES] + [(*case, TypeError) for case in BAD_KINDS],
)
def test_what_is_bad_is_named_with_the_rule_and_what_was_received(call, message, error):
    with pytest.raises(error, match=message):
        call()


def test_the_checks_run_while_tracing():
    with pytest.raises(ValueError, match=r"groups=4 must divide.*shape \(3, 3, 2, 10\)"):
        jax.jit(convert.from_hwio, static_argnums=1)(jnp.zeros((3, 3, 2, 10)), 4)
