"""Flax modules with partitioned parameters train on eight devices as on one, and gather nothing."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from sharding_cases import BOTH, collectives

import grouped_conv_jax as gcj

CHANNELS = 16
DRAW = nn.initializers.normal(0.5)


@pytest.fixture(autouse=True)
def mesh():
    """Batches are split over ``data``, parameters over ``model``."""
    mesh = jax.make_mesh((2, 4), BOTH, (AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        yield mesh


def partitioned(flax, rank):
    """An initializer whose parameter is split along its last axis, the groups or the channels."""
    return flax.with_partitioning(DRAW, (None,) * (rank - 1) + ("model",))


def grouped(flax):
    return {
        "padding": "same",
        "weights_initializer": partitioned(flax, 5),
        "bias_initializer": partitioned(flax, 4),
    }


def convolutional(flax):
    return {
        "feature_group_count": CHANNELS,
        "kernel_init": partitioned(flax, 4),
        "bias_init": partitioned(flax, 1),
        "conv_general_dilated": gcj.conv_general_dilated,
    }


def linen_network(x):
    model = nn.Sequential(
        [
            gcj.linen.GroupedConv2D(3, 1, "channel-wise", **grouped(nn)),
            nn.relu,
            nn.Conv(CHANNELS, (3, 3), 2, **convolutional(nn)),
            nn.relu,
            gcj.linen.GroupedConv2D(3, 2, 4, **grouped(nn)),
        ]
    )
    key = jax.random.key(0)
    specs = nn.get_partition_spec(jax.eval_shape(model.init, key, x))
    variables = nn.meta.unbox(jax.jit(model.init)(key, x))
    return jax.tree.map(jax.device_put, variables, specs), model.apply


def nnx_network(x):
    del x
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(
        gcj.nnx.GroupedConv2D(CHANNELS, 3, 1, "channel-wise", rngs=rngs, **grouped(nnx)),
        nnx.relu,
        nnx.Conv(CHANNELS, CHANNELS, (3, 3), 2, rngs=rngs, **convolutional(nnx)),
        nnx.relu,
        gcj.nnx.GroupedConv2D(CHANNELS, 3, 2, 4, rngs=rngs, **grouped(nnx)),
    )
    definition, state = nnx.split(model)
    return nnx.to_pure_dict(state), lambda state, x: nnx.merge(definition, nnx.State(state))(x)


@pytest.mark.parametrize("network", [linen_network, nnx_network])
def test_a_training_step_gathers_nothing_and_is_that_of_one_device(network):
    random = np.random.default_rng(0)
    images = random.standard_normal((8, 8, 8, CHANNELS)).astype(np.float32)
    x = jax.device_put(images, P("data", None, None, "model"))
    parameters, apply = network(x)
    assert any("model" in leaf.sharding.spec for leaf in jax.tree.leaves(parameters))

    @jax.jit
    def step(parameters, x):
        def loss(parameters):
            return jnp.mean(jnp.square(apply(parameters, x)))

        value, gradients = jax.value_and_grad(loss)(parameters)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, parameters, gradients)

    compiled = step.lower(parameters, x).compile()
    # The loss and the gradients, which are summed over the batch.
    assert set(collectives(compiled)) == {"all-reduce"}
    value, trained = compiled(parameters, x)
    for before, after in zip(jax.tree.leaves(parameters), jax.tree.leaves(trained), strict=True):
        assert after.sharding.is_equivalent_to(before.sharding, after.ndim)
    with jax.set_mesh(jax.make_mesh((1,), ("one",), (AxisType.Auto,), devices=jax.devices()[:1])):
        alone = step(jax.tree.map(np.asarray, parameters), images)
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(alone)} == {1}
    jax.tree.map(
        lambda actual, desired: np.testing.assert_allclose(
            actual, desired, rtol=1e-4, atol=1e-5 * np.abs(desired).max()
        ),
        (value, trained),
        alone,
    )
