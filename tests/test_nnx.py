"""The NNX module under NNX's own transformations and tools."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

from grouped_conv_jax.nnx import GroupedConv2D

X = np.random.default_rng(0).standard_normal((2, 5, 5, 4)).astype(np.float32)


def layer(rngs=None, **arguments):
    return GroupedConv2D(4, 3, 2, 2, padding="same", rngs=rngs or nnx.Rngs(0), **arguments)


@nnx.split_rngs(splits=3)
@nnx.vmap(in_axes=0, out_axes=0)
def three_layers(rngs):
    return layer(rngs, bias_initializer="narrow-normal")


def entry(module, i):
    """One of the layers that a module holds along a first axis."""
    graph, state = nnx.split(module)
    return nnx.merge(graph, jax.tree.map(lambda a: a[i], state))


def test_display_and_repr_show_parameters_and_hyperparameters(capsys):
    module = layer()
    nnx.display(module)
    for text in (capsys.readouterr().out, repr(module)):
        for part in ("GroupedConv2D", "weights=Param", "(3, 3, 2, 2, 2)", "num_groups=2"):
            assert part in text


def test_tabulate_lists_the_parameters():
    table = nnx.tabulate(layer(), X, console_kwargs={"width": 200, "force_terminal": False})
    for part in ("GroupedConv2D", "weights: float32[3,3,2,2,2]", "bias: float32[1,1,2,2]"):
        assert part in table


def test_jit_gives_what_the_call_gives():
    module = layer()
    np.testing.assert_allclose(
        nnx.jit(lambda module, x: module(x))(module, X), module(X), rtol=1e-5, atol=1e-6
    )


def test_grad_has_the_structure_of_the_parameters():
    module = layer()
    gradients = nnx.grad(lambda module: jnp.sum(jnp.sin(module(X))))(module)
    state = nnx.state(module, nnx.Param)
    assert jax.tree.structure(gradients) == jax.tree.structure(state)
    # The bias reaches every output: its gradient is a sum of the outputs' cosines.
    expected = np.cos(module(X)).sum(axis=(0, 1, 2)).reshape(2, 2).T[None, None]
    np.testing.assert_allclose(gradients["bias"][...], expected, rtol=1e-4, atol=1e-4)


def test_vmap_holds_one_layer_an_entry():
    module = three_layers(nnx.Rngs(0))
    assert module.weights.shape == (3, 3, 3, 2, 2, 2)
    assert not np.any(module.weights[0] == module.weights[1])
    xs = np.stack([X, 2 * X, X[::-1]])
    y = nnx.vmap(lambda module, x: module(x), in_axes=(0, 0))(module, xs)
    for i in range(3):
        np.testing.assert_allclose(y[i], entry(module, i)(xs[i]), rtol=1e-5, atol=1e-5)


def test_scan_runs_layers_in_a_row():
    module = three_layers(nnx.Rngs(0))
    y = nnx.scan(lambda x, module: module(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(X, module)
    expected = functools.reduce(lambda x, i: entry(module, i)(x), range(3), X)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_remat_changes_neither_values_nor_gradients():
    module = layer()

    def loss(call):
        return lambda module: jnp.sum(jnp.sin(call(module, X)))

    call = lambda module, x: module(x)  # noqa: E731
    got = nnx.value_and_grad(loss(nnx.remat(call)))(module)
    expected = nnx.value_and_grad(loss(call))(module)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, expected)


@pytest.mark.parametrize("use_bias", [True, False])
def test_split_and_merge_give_the_same_layer_back(use_bias):
    module = layer(use_bias=use_bias)
    graph, state = nnx.split(module)
    assert set(state) == ({"weights", "bias"} if use_bias else {"weights"})
    np.testing.assert_array_equal(nnx.merge(graph, state)(X), module(X))
    hash(graph)  # What jit caches by.
    assert graph == nnx.graphdef(layer(use_bias=use_bias))


def test_initial_arrays_are_held_once():
    weights = np.ones((3, 3, 2, 2, 2), np.float32)
    module = layer(initial_weights=weights)
    assert module.initial_weights is None
    assert len(jax.tree.leaves(nnx.state(module))) == 2
    hash(nnx.graphdef(module))


def test_orbax_saves_and_restores(tmp_path):
    module = layer(bias_initializer="narrow-normal")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "checkpoint", nnx.state(module))
    graph, abstract = nnx.split(nnx.eval_shape(layer))
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "checkpoint", abstract)
    jax.tree.map(np.testing.assert_array_equal, restored, nnx.state(module))
    np.testing.assert_array_equal(nnx.merge(graph, restored)(X), module(X))


class TestPartitioning:
    initializer = staticmethod(
        nnx.with_partitioning(nnx.initializers.normal(), (None, None, None, None, "groups"))
    )

    def mesh(self, *names):
        # NNX asks for a mesh as soon as a variable is annotated.
        axes = jax.make_mesh((1,) * len(names), names, axis_types=(AxisType.Auto,) * len(names))
        return jax.set_mesh(axes)

    def test_metadata_survives_and_the_layer_computes(self):
        with self.mesh("groups"):
            module = layer(weights_initializer=self.initializer)
            spec = nnx.get_partition_spec(nnx.state(module))
            assert spec["weights"].get_value() == PartitionSpec(None, None, None, None, "groups")
            assert spec["bias"].get_value() == PartitionSpec()
            graph, state = nnx.split(module)
            np.testing.assert_array_equal(nnx.merge(graph, state)(X), module(X))

    def test_metadata_gains_an_axis_under_vmap(self):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: "layers"})
        def create(rngs):
            return layer(rngs, weights_initializer=self.initializer)

        with self.mesh("layers", "groups"):
            spec = nnx.get_partition_spec(nnx.state(create(nnx.Rngs(0))))["weights"].get_value()
        assert spec == PartitionSpec("layers", None, None, None, None, "groups")
