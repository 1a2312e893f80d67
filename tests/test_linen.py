"""The Linen module under Linen's own transformations and tools."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import PartitionSpec

from grouped_conv_jax.linen import GroupedConv2D

KEY = jax.random.key(0)
X = np.random.default_rng(0).standard_normal((2, 5, 5, 4)).astype(np.float32)
INITIAL = np.random.default_rng(1).standard_normal((3, 3, 2, 2, 2)).astype(np.float32)

# Arrays among the attributes, which no transformation may trip over, and none.
both_attributes = pytest.mark.parametrize("arguments", [{}, {"initial_weights": INITIAL}])


def layer(**arguments):
    return GroupedConv2D(3, 2, 2, padding="same", **arguments)


def test_tabulate_lists_the_parameters():
    table = layer().tabulate(KEY, X, console_kwargs={"width": 200, "force_terminal": False})
    for part in ("GroupedConv2D", "weights: float32[3,3,2,2,2]", "bias: float32[1,1,2,2]", "76"):
        assert part in table


def test_repr_shows_the_hyperparameters():
    assert "filter_size = (3, 3)" in repr(layer())


@both_attributes
def test_jit_of_init_and_apply(arguments):
    module = layer(**arguments)
    variables = jax.jit(module.init)(KEY, X)
    expected = module.init(KEY, X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), variables, expected)
    np.testing.assert_allclose(
        jax.jit(module.apply)(variables, X), module.apply(variables, X), rtol=1e-5, atol=1e-6
    )


@both_attributes
@pytest.mark.parametrize("transform", [nn.jit, nn.remat])
def test_lifted_jit_and_remat_change_neither_values_nor_gradients(transform, arguments):
    plain, lifted = (
        layer(**arguments),
        transform(GroupedConv2D)(3, 2, 2, padding="same", **arguments),
    )
    variables = plain.init(KEY, X)

    def loss(module):
        return lambda variables, x: jnp.sum(jnp.sin(module.apply(variables, x)))

    got = jax.value_and_grad(loss(lifted))(variables, X)
    expected = jax.value_and_grad(loss(plain))(variables, X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, expected)


@both_attributes
def test_vmap_holds_one_layer_an_entry(arguments):
    stacked = nn.vmap(
        GroupedConv2D, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=0
    )(3, 2, 2, padding="same", **arguments)
    xs = np.stack([X, 2 * X, X[::-1]])
    y, variables = stacked.init_with_output(KEY, xs)
    weights = variables["params"]["weights"]
    assert weights.shape == (3, 3, 3, 2, 2, 2)
    assert np.all(weights[0] == weights[1]) == bool(arguments)
    for i in range(3):
        one = jax.tree.map(lambda a, i=i: a[i], variables)
        np.testing.assert_allclose(y[i], layer().apply(one, xs[i]), rtol=1e-5, atol=1e-5)


@both_attributes
def test_scan_runs_layers_in_a_row(arguments):
    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            scan = nn.scan(
                lambda module, x, _: (module(x), None),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=3,
            )
            return scan(layer(**arguments, name="layer"), x, None)[0]

    y, variables = Stack().init_with_output(KEY, X)
    expected = X
    for i in range(3):
        one = jax.tree.map(lambda a, i=i: a[i], variables["params"]["layer"])
        expected = layer().apply({"params": one}, expected)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


class TestPartitioning:
    initializer = staticmethod(
        nn.with_partitioning(nn.initializers.normal(), (None, None, None, None, "groups"))
    )

    def test_metadata_survives_and_the_layer_computes(self):
        module = layer(weights_initializer=self.initializer)
        variables = module.init(KEY, X)
        boxed = variables["params"]["weights"]
        assert isinstance(boxed, nn.Partitioned)
        assert boxed.names == (None, None, None, None, "groups")
        spec = nn.get_partition_spec(variables)["params"]
        assert spec["weights"] == PartitionSpec(None, None, None, None, "groups")
        assert spec["bias"] == PartitionSpec()
        np.testing.assert_array_equal(
            module.apply(variables, X), module.apply(nn.unbox(variables), X)
        )

    def test_metadata_gains_an_axis_under_vmap(self):
        stacked = nn.vmap(
            GroupedConv2D,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=0,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(3, 2, 2, padding="same", weights_initializer=self.initializer)
        xs = np.stack([X, X])
        y, variables = stacked.init_with_output(KEY, xs)
        names = ("layers", None, None, None, None, "groups")
        assert variables["params"]["weights"].names == names
        np.testing.assert_array_equal(stacked.apply(variables, xs), y)

    def test_metadata_passes_through_gradients(self):
        module = layer(weights_initializer=self.initializer)
        variables = module.init(KEY, X)
        gradients = jax.grad(lambda variables: module.apply(variables, X).sum())(variables)
        assert gradients["params"]["weights"].names == (None, None, None, None, "groups")


def test_orbax_saves_and_restores(tmp_path):
    module = layer(bias_initializer="narrow-normal")
    variables = module.init(KEY, X)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "checkpoint", variables)
    abstract = jax.eval_shape(module.init, KEY, X)
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "checkpoint", abstract)
    assert jax.tree.structure(restored) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, restored, variables)
    np.testing.assert_array_equal(module.apply(restored, X), module.apply(variables, X))


def test_parameters_are_plain_arrays_with_ordinary_names():
    variables = nn.Sequential([layer(), nn.relu, layer()]).init(KEY, X)
    assert set(variables["params"]) == {"layers_0", "layers_2"}
    assert set(variables["params"]["layers_0"]) == {"weights", "bias"}
    assert all(type(leaf) is type(jnp.ones(1)) for leaf in jax.tree.leaves(variables))
