"""Values and gradients against PyTorch."""

import functools

import jax
import numpy as np
import pytest

from grouped_conv_jax import grouped_conv2d

torch = pytest.importorskip(
    "torch", reason="torch is not installed: the extra [test] brings it on Python 3.11 only"
)

# weights (h, w, C, F, G), and the arguments that both sides take
CONVOLUTIONS = {
    "one group": ((3, 3, 4, 5, 1), {}),
    "two groups": ((3, 2, 2, 3, 2), {"stride": (2, 1)}),
    "channel-wise": ((3, 3, 1, 1, 4), {"padding": 1}),
    "channel-wise with a multiplier": ((2, 3, 1, 3, 4), {"stride": 2, "padding": (1, 2)}),
    "dilated": ((3, 2, 2, 1, 2), {"dilation": (2, 3), "padding": (2, 1)}),
    "stride, dilation and padding": (
        (2, 3, 2, 2, 3),
        {"stride": (3, 2), "dilation": (1, 2), "padding": (0, 3)},
    ),
    "stride larger than the filter": ((1, 2, 2, 2, 2), {"stride": (3, 4)}),
    "filter larger than the image": ((9, 9, 1, 2, 3), {"padding": 3}),
    "same": ((4, 3, 2, 1, 2), {"dilation": (1, 2), "padding": "same"}),
}
MODES = {"replicate": "replicate", "symmetric-exclude-edge": "reflect"}


def random(*shape, seed):
    return np.random.default_rng(seed).standard_normal(shape)


def ours(x, weights, bias, cotangent, **arguments):
    """The result and its gradients, in float64."""
    with jax.enable_x64(True):
        convolve = functools.partial(grouped_conv2d, **arguments)

        @jax.jit
        def both(primals, cotangent):
            y, pull_back = jax.vjp(convolve, *primals)
            return y, pull_back(cotangent)

        return both((x, weights, bias), cotangent)


def theirs(x, weights, bias, cotangent, mode=None, sides=None, **arguments):
    """PyTorch's, of an NCHW input; gradients in our shapes."""
    height, width, channels, filters, groups = weights.shape
    x, weights, bias = (torch.tensor(a, requires_grad=True) for a in (x, weights, bias))
    kernel = weights.permute(4, 3, 2, 0, 1).reshape(groups * filters, channels, height, width)
    vector = bias.permute(0, 1, 3, 2).reshape(-1)
    (top, bottom), (left, right) = sides or ((0, 0), (0, 0))
    padded = x if mode is None else torch.nn.functional.pad(x, (left, right, top, bottom), mode)
    y = torch.nn.functional.conv2d(padded, kernel, vector, groups=groups, **arguments)
    y.backward(torch.tensor(cotangent(y.shape)))
    return y.detach().numpy(), [a.grad.numpy() for a in (x, weights, bias)]


def assert_agree(got, expected):
    (y, gradients), (their_y, their_gradients) = got, expected
    np.testing.assert_allclose(y, their_y, rtol=1e-12, atol=1e-12)
    for gradient, their_gradient in zip(gradients, their_gradients, strict=True):
        np.testing.assert_allclose(gradient, their_gradient, rtol=1e-12, atol=1e-12)


def cotangent_of(shape):
    return random(*shape, seed=3)


# PyTorch pads a copy where "same" is uneven, as it must.
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_values_and_gradients(name):
    weights_shape, arguments = CONVOLUTIONS[name]
    _, _, channels, filters, groups = weights_shape
    x = random(2, channels * groups, 6, 7, seed=0)
    weights = random(*weights_shape, seed=1)
    bias = random(1, 1, filters, groups, seed=2)
    expected = theirs(x, weights, bias, cotangent_of, **arguments)
    got = ours(
        x,
        weights,
        bias,
        cotangent_of(expected[0].shape),
        stride=arguments.get("stride", 1),
        dilation_factor=arguments.get("dilation", 1),
        padding=arguments.get("padding", 0),
        data_format="NCHW",
    )
    assert_agree(got, expected)


@pytest.mark.parametrize("padding_value", MODES)
def test_padding_values_and_their_gradients(padding_value):
    x, weights = random(2, 4, 5, 6, seed=0), random(3, 3, 2, 2, 2, seed=1)
    bias = random(1, 1, 2, 2, seed=2)
    sides = ((1, 3), (4, 2))
    expected = theirs(
        x, weights, bias, cotangent_of, mode=MODES[padding_value], sides=sides, stride=2
    )
    got = ours(
        x,
        weights,
        bias,
        cotangent_of(expected[0].shape),
        stride=2,
        padding=sides,
        padding_value=padding_value,
        data_format="NCHW",
    )
    assert_agree(got, expected)
