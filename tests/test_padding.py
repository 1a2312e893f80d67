"""Padding: the sizes of every spelling, and the values of every way to fill them."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from grouped_conv_jax import grouped_conv2d, linen

EXAMPLE = np.array([[3, 1, 4], [1, 5, 9], [2, 6, 5]], np.float32)


def padded(image, padding, padding_value):
    """The padded image itself: what a 1x1 filter of one sees."""
    image = jnp.asarray(image, jnp.float32)[:, :, None]
    weights = jnp.ones((1, 1, 1, 1, 1))
    y = grouped_conv2d(image, weights, padding=padding, padding_value=padding_value)
    return np.asarray(y[:, :, 0])


@pytest.mark.parametrize(
    ("padding_value", "first_row"),
    [
        ("symmetric-include-edge", [5, 1, 1, 5, 9, 9, 5]),
        ("symmetric-exclude-edge", [5, 6, 2, 6, 5, 6, 2]),
        ("replicate", [3, 3, 3, 1, 4, 4, 4]),
        (0, [0, 0, 0, 0, 0, 0, 0]),
        (7, [7, 7, 7, 7, 7, 7, 7]),
    ],
)
def test_the_specifications_examples(padding_value, first_row):
    result = padded(EXAMPLE, 2, padding_value)
    assert result.shape == (7, 7)
    np.testing.assert_array_equal(result[0], first_row)
    np.testing.assert_array_equal(result[2:5, 2:5], EXAMPLE)


@pytest.mark.parametrize("sides", [(1, 2, 3, 0), (3, 0, 4, 4)])
@pytest.mark.parametrize(
    ("padding_value", "numpy"),
    [
        ("symmetric-include-edge", {"mode": "symmetric"}),
        ("symmetric-exclude-edge", {"mode": "reflect"}),
        ("replicate", {"mode": "edge"}),
        (0, {"constant_values": 0}),
        (-1.5, {"constant_values": -1.5}),
    ],
)
def test_values_are_those_of_numpys_pad(padding_value, numpy, sides):
    image = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    top, bottom, left, right = sides
    expected = np.pad(image, ((top, bottom), (left, right)), **numpy)
    np.testing.assert_array_equal(padded(image, sides, padding_value), expected)


@pytest.mark.parametrize(
    ("padding", "sides"),
    [
        (2, (2, 2, 2, 2)),
        (np.int32(2), (2, 2, 2, 2)),
        ((1, 2), (1, 1, 2, 2)),
        ([1, 2], (1, 1, 2, 2)),
        ((1, 2, 3, 4), (1, 2, 3, 4)),
        (np.array([1, 2, 3, 4]), (1, 2, 3, 4)),
        (((1, 2), (3, 4)), (1, 2, 3, 4)),
        ("valid", (0, 0, 0, 0)),
        ("VALID", (0, 0, 0, 0)),
        ("Valid", (0, 0, 0, 0)),
    ],
)
def test_each_spelling_means_top_bottom_left_right(padding, sides):
    top, bottom, left, right = sides
    expected = np.pad(EXAMPLE, ((top, bottom), (left, right)))
    np.testing.assert_array_equal(padded(EXAMPLE, padding, 0), expected)


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        # NumPy's.
        ("reflect", "'symmetric-exclude-edge'"),
        ("symmetric", "'symmetric-include-edge'"),
        ("edge", "'replicate'"),
        ("wrap", "'circular'"),
        ("constant", "a number"),
        # PyTorch's, where they are others.
        ("border", "'replicate'"),
        ("zeros", "0"),
        ("Zeros", "0"),
        ("REFLECT", "'symmetric-exclude-edge'"),
    ],
)
def test_words_of_numpy_and_pytorch_are_answered_with_ours(word, ours):
    for build in (
        lambda: padded(EXAMPLE, 1, word),
        lambda: linen.GroupedConv2D(3, 1, 1, padding_value=word),
    ):
        with pytest.raises(ValueError, match=f"got '{word}'; that is {ours} here$"):
            build()


def test_same_gives_the_input_size_over_the_stride_rounded_up():
    for size in (1, 4, 5, 7):
        for k in (1, 2, 3):
            for stride in (1, 2, 3):
                for dilation in (1, 2):
                    # The other direction has other numbers, so that none is taken for the other.
                    y = jax.eval_shape(
                        lambda x, w, s=stride, d=dilation: grouped_conv2d(
                            x, w, stride=(s, 4), dilation_factor=(d, 2), padding="same"
                        ),
                        jnp.zeros((size, 9, 1)),
                        jnp.zeros((k, 2, 1, 1, 1)),
                    )
                    assert y.shape == (-(-size // stride), 3, 1)


@pytest.mark.parametrize(
    ("size", "k", "stride", "dilation"),
    [(1, 2, 1, 1), (4, 3, 2, 1), (5, 4, 1, 1), (5, 2, 3, 1), (4, 4, 1, 2), (5, 3, 2, 3)],
)
def test_same_splits_evenly_with_the_odd_one_after(size, k, stride, dilation):
    # Counting positions from one tells every tap apart, and zero is padding alone.
    column = np.arange(1.0, size + 1)[:, None, None]
    weights = 10.0 ** np.arange(k)[:, None, None, None, None]
    before, after = reference.same_padding(size, k, stride, dilation)
    assert after - before in (0, 1)
    line = np.pad(column[:, 0, 0], (before, after))
    outputs = -(-size // stride)
    expected = [
        sum(line[i * stride + m * dilation] * 10.0**m for m in range(k)) for i in range(outputs)
    ]
    with jax.enable_x64(True):
        vertical = grouped_conv2d(
            column, weights, stride=(stride, 1), dilation_factor=(dilation, 1), padding="same"
        )
        horizontal = grouped_conv2d(
            column.transpose(1, 0, 2),
            weights.transpose(1, 0, 2, 3, 4),
            stride=(1, stride),
            dilation_factor=(1, dilation),
            padding="same",
        )
    np.testing.assert_allclose(np.ravel(vertical), expected, rtol=1e-12)
    np.testing.assert_allclose(np.ravel(horizontal), expected, rtol=1e-12)


@pytest.mark.parametrize("padding_value", [*cases.MIRRORS, 5.0])
def test_same_is_sized_first_and_then_filled(padding_value):
    image = np.random.default_rng(1).standard_normal((5, 4, 1))
    weights = np.random.default_rng(2).standard_normal((4, 3, 1, 1, 1))
    with jax.enable_x64(True):
        y = grouped_conv2d(
            image, weights, stride=(1, 2), padding="same", padding_value=padding_value
        )
    sides = ((1, 2), (0, 1))
    expected = reference.grouped_conv(
        image, weights, stride=(1, 2), sides=sides, padding_value=padding_value
    )
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


def test_only_images_are_padded_not_batches_nor_channels():
    x = np.random.default_rng(3).standard_normal((2, 3, 4, 5, 2)).astype(np.float32)
    identity = np.ones((1, 1, 1, 1, 2), np.float32)
    y = grouped_conv2d(x, identity, padding=1, padding_value="replicate", data_format="BTSSC")
    expected = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(
    ("padding_value", "longest"),
    [("symmetric-include-edge", 3), ("symmetric-exclude-edge", 2)],
)
def test_a_mirror_as_long_as_the_image_is_the_longest(padding_value, longest):
    np.testing.assert_array_equal(
        padded(EXAMPLE, longest, padding_value),
        np.pad(EXAMPLE, longest, mode=reference.NUMPY_MODES[padding_value]),
    )
    for sides in np.eye(4, dtype=int) * (longest + 1):
        with pytest.raises(ValueError, match=rf"padding .*at most {longest} .*got .*{longest + 1}"):
            padded(EXAMPLE, tuple(sides), padding_value)


def test_a_mirror_that_same_makes_longer_than_the_image_raises():
    with pytest.raises(ValueError, match=r"padding .*at most 2 .*height 3, got \(3, 3\)"):
        grouped_conv2d(
            jnp.ones((3, 9, 1)),
            jnp.ones((7, 1, 1, 1, 1)),
            padding="same",
            padding_value="symmetric-exclude-edge",
        )


def test_replicate_may_be_longer_than_the_image():
    np.testing.assert_array_equal(padded(EXAMPLE, 5, "replicate"), np.pad(EXAMPLE, 5, mode="edge"))


def test_a_number_that_the_dtype_cannot_hold_raises():
    x, weights = jnp.ones((2, 2, 1), jnp.float16), jnp.ones((1, 1, 1, 1, 1), jnp.float16)
    with pytest.raises(ValueError, match=r"padding_value .*float16, got 70000"):
        grouped_conv2d(x, weights, padding=1, padding_value=70000)
