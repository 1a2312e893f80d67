"""Initializers of JAX and Flax that scale by fans count them within a group, or are refused."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from grouped_conv_jax import linen
from grouped_conv_jax import nnx as grouped_nnx

FAMILY = [
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "xavier_normal",
    "xavier_uniform",
]
GROUPED = {"in_axis": -3, "out_axis": -2, "batch_axis": -1}
DEFAULTS = "in_axis=-2, out_axis=-1, batch_axis=()"
X = jnp.ones((1, 4, 4, 64))


def weights_of(initializer):
    """(3, 3, 16, 32, 4): fan-in 144 and fan-out 288."""
    layer = linen.GroupedConv2D(3, 32, 4, weights_initializer=initializer)
    return nn.unbox(layer.init(jax.random.key(0), X))["params"]["weights"]


def assert_refused(initializer, got=DEFAULTS):
    for make in (
        lambda: linen.GroupedConv2D(3, 2, 2, weights_initializer=initializer),
        lambda: grouped_nnx.GroupedConv2D(
            4, 3, 2, 2, weights_initializer=initializer, rngs=nnx.Rngs(0)
        ),
    ):
        with pytest.raises(ValueError, match="weights_initializer") as error:
            make()
        assert str(error.value) == (
            "weights_initializer must count fans on the axes of grouped weights, (..., channels "
            "per group, filters per group, groups): in_axis=-3, out_axis=-2, batch_axis=-1; got "
            f"an initializer of jax.nn.initializers.variance_scaling with {got}"
        )


@pytest.mark.parametrize("library", [jax.nn.initializers, nn.initializers, nnx.initializers])
@pytest.mark.parametrize("name", FAMILY)
def test_the_family_is_refused_where_it_counts_the_last_two_axes(library, name):
    assert_refused(getattr(library, name)())


@pytest.mark.parametrize(
    ("mode", "fan"),
    [("fan_in", 144), ("fan_out", 288), ("fan_avg", 216), ("fan_geo_avg", np.sqrt(144 * 288))],
)
def test_variance_scaling_itself_is_refused_and_right_with_its_axes(mode, fan):
    make = functools.partial(nn.initializers.variance_scaling, 2.0, mode, "normal")
    assert_refused(make())
    std = float(jnp.std(weights_of(make(**GROUPED))))
    # 18,432 samples: the standard deviation of a normal is off by 0.5 % in one of three draws.
    assert std == pytest.approx(np.sqrt(2 / fan), rel=0.03)


@pytest.mark.parametrize(
    "axes",
    [
        {"in_axis": 2, "out_axis": 3, "batch_axis": 4},
        {"in_axis": (0, 1, 2), "out_axis": 3, "batch_axis": (-1,)},
        # The fan-out of Flax's own layers: all groups together.
        {"in_axis": -3, "out_axis": (-2, -1)},
        # The fan-in of Keras' depthwise layers.
        {"in_axis": (-3, -1), "out_axis": -2},
    ],
)
def test_other_axes_that_were_chosen_for_grouped_weights_are_taken(axes):
    make = functools.partial(nn.initializers.variance_scaling, 1.0, "fan_avg", "normal", **axes)
    expected = make()(jax.random.key(1), (3, 3, 16, 32, 4), jnp.float32)
    assert float(jnp.std(weights_of(make()))) == pytest.approx(float(jnp.std(expected)), rel=0.03)


@pytest.mark.parametrize(
    ("axes", "got"),
    [
        ({"in_axis": -3}, "in_axis=-3, out_axis=-1, batch_axis=()"),
        ({"in_axis": 2, "out_axis": 3}, "in_axis=2, out_axis=3, batch_axis=()"),
        ({"out_axis": (-2, -1)}, "in_axis=-2, out_axis=(-2, -1), batch_axis=()"),
        ({"batch_axis": -1}, "in_axis=-2, out_axis=-1, batch_axis=-1"),
    ],
)
def test_axes_that_leave_one_out_are_refused(axes, got):
    assert_refused(nn.initializers.he_normal(**axes), got)


WRAPPERS = {
    "Linen partitioning": lambda init: nn.with_partitioning(init, (None,) * 5),
    "logical partitioning": lambda init: nn.with_logical_partitioning(init, (None,) * 5),
    "NNX partitioning": lambda init: nnx.with_partitioning(init, (None,) * 5),
    "NNX metadata": lambda init: nnx.with_metadata(init, note="metadata"),
    "partial": lambda init: functools.partial(init, dtype=jnp.float32),
    "jit": lambda init: jax.jit(init, static_argnums=(1, 2)),
    "two of them": lambda init: nn.with_partitioning(
        functools.partial(nnx.with_metadata(init)), (None,) * 5
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_it_is_found_within_what_returns_the_same_values(wrapper):
    assert_refused(WRAPPERS[wrapper](nn.initializers.he_normal()))


def test_a_box_around_the_right_axes_is_taken():
    for wrap in (nn.with_partitioning, nn.with_logical_partitioning):
        weights = weights_of(wrap(nn.initializers.he_normal(**GROUPED), (None,) * 5))
        assert float(jnp.std(weights)) == pytest.approx(np.sqrt(2 / 144), rel=0.03)


def per_group(key, shape, dtype):
    """A function of a user, who knows about groups."""
    keys = jax.random.split(key, shape[-1])
    he = nn.initializers.he_normal()
    return jnp.stack([he(key, shape[:-1], dtype) for key in keys], axis=-1)


@pytest.mark.parametrize(
    "initializer",
    [
        per_group,
        functools.wraps(nn.initializers.he_normal())(per_group),
        functools.partial(per_group),
        nn.initializers.normal(0.1),
        nn.initializers.truncated_normal(0.1),
        nn.initializers.uniform(0.1),
        nn.initializers.constant(0.5),
        nn.initializers.zeros,
        nn.initializers.ones_init(),
        nn.with_partitioning(nn.initializers.normal(0.1), (None,) * 5),
        lambda key, shape, dtype: jax.random.normal(key, shape, dtype),
    ],
)
def test_callables_that_do_not_count_fans_are_called_as_they_are(initializer):
    shape = (3, 3, 16, 32, 4)
    key_of_weights = nnx.Rngs(0).params()
    layer = linen.GroupedConv2D(3, 32, 4, weights_initializer=initializer)
    got = nn.unbox(layer.init(jax.random.key(0), X))["params"]["weights"]
    assert got.shape == shape
    expected = nn.unbox(initializer(key_of_weights, shape, jnp.float32))
    assert float(jnp.std(got)) == pytest.approx(float(jnp.std(expected)), rel=0.05)


MATRICES = {
    "orthogonal": nn.initializers.orthogonal,
    "delta_orthogonal": nn.initializers.delta_orthogonal,
}


@pytest.mark.parametrize("axis", [-1, -2, 3])
@pytest.mark.parametrize("wrapper", [lambda init: init, *WRAPPERS.values()])
@pytest.mark.parametrize("name", MATRICES)
def test_one_matrix_of_all_groups_is_refused(name, wrapper, axis):
    initializer = wrapper(MATRICES[name](column_axis=axis))
    for make in (
        lambda: linen.GroupedConv2D(3, 2, 2, weights_initializer=initializer),
        lambda: linen.GroupedConv1D(3, 2, "channel-wise", weights_initializer=initializer),
        lambda: grouped_nnx.GroupedConv2D(
            4, 3, 2, 2, weights_initializer=initializer, rngs=nnx.Rngs(0)
        ),
    ):
        message = (
            "^weights_initializer must initialize each group on its own, got an initializer of "
            rf"jax\.nn\.initializers\.{name}, which makes one matrix of all groups; give it the "
        )
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("name", MATRICES)
def test_the_spelling_that_message_gives_is_orthogonal_in_each_group(name):
    with pytest.raises(ValueError, match="shape of one group: ") as error:
        linen.GroupedConv2D(3, 2, 2, weights_initializer=MATRICES[name]())
    _, _, spelling = str(error.value).partition("shape of one group: ")
    initializer = eval(spelling, {"jax": jax, "initializer": MATRICES[name](2.0)})
    weights = np.asarray(weights_of(initializer))
    assert not np.allclose(weights[..., 0], weights[..., 1])
    for group in np.moveaxis(weights, -1, 0):
        # delta_orthogonal has more filters than channels here, and nothing but the middle tap.
        matrix = group[1, 1].T if name == "delta_orthogonal" else group.reshape(144, 32)
        identity = np.eye(matrix.shape[1])
        np.testing.assert_allclose(matrix.T @ matrix, 4 * identity, atol=1e-5)
        taps = np.count_nonzero(np.any(group, axis=(2, 3)))
        assert taps == (1 if name == "delta_orthogonal" else 9)


@pytest.mark.parametrize(
    "initializer",
    [
        nn.initializers.lecun_normal(**GROUPED),
        nn.initializers.orthogonal(),
        nn.initializers.delta_orthogonal(),
    ],
)
def test_a_bias_has_no_fans(initializer):
    with pytest.raises(ValueError, match=r"^bias_initializer must not depend on fans, which a bia"):
        linen.GroupedConv2D(3, 2, 2, bias_initializer=initializer)
    layer = linen.GroupedConv2D(3, 2, 2, bias_initializer=nn.initializers.constant(2.0))
    np.testing.assert_array_equal(layer.init(jax.random.key(0), X)["params"]["bias"], 2.0)
