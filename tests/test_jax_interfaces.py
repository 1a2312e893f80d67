"""The interfaces inside of JAX that the primitive is built on.

Where one of these tests fails, a new JAX has changed what ``_primitive.py`` uses.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import ad, batching, mlir
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from grouped_conv_jax import _primitive

DEVICES = 8
MESSAGE = f"JAX {jax.__version__} changed an interface that grouped_conv_jax/_primitive.py uses"


def new_product():
    """A bilinear primitive, and what its rules are called with."""
    product, calls = jax.extend.core.Primitive("product_of_the_test"), {}

    def multiply(x, y, *, scale):
        return x * y * scale

    def result_type(x, y, **parameters):
        del y, parameters
        return x.update(weak_type=False)

    def transpose(position):
        def rule(cotangent, x, y, **parameters):
            calls["transpose"] = (cotangent, x, y, parameters)
            return cotangent * (y if position == 0 else x) * parameters["scale"]

        return rule

    def batch(operands, dims, **parameters):
        calls["batch"] = (operands, dims, parameters)
        return product.bind(*operands, **parameters), 0

    product.def_impl(multiply)
    product.def_abstract_eval(result_type)
    rule = mlir.lower_fun(multiply, multiple_results=False)

    def lower(ctx, *operands, **parameters):
        calls["lower"] = (ctx, operands, parameters)
        return rule(ctx.replace(avals_in=list(ctx.avals_in)), *operands, **parameters)

    ad.defbilinear(product, transpose(0), transpose(1))
    batching.primitive_batchers[product] = batch
    mlir.register_lowering(product, lower, platform="cpu")
    return functools.partial(product.bind, scale=3.0), calls


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (ad.defbilinear, ("prim", "lhs_rule", "rhs_rule")),
        (mlir.lower_fun, ("fun", "multiple_results")),
        (mlir.register_lowering, ("prim", "rule", "platform")),
        (jax.lax.pcast, ("x", "axis_name", "to")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_functions_take_these_arguments(function: Callable, parameters):
    taken = inspect.signature(function).parameters
    assert set(parameters) <= set(taken), f"{MESSAGE}: {function.__name__}{tuple(taken)}"


def test_a_transpose_rule_gets_the_cotangent_and_the_type_of_the_linear_operand():
    product, calls = new_product()
    value, gradient = jax.value_and_grad(product)(2.0, 5.0)
    cotangent, x, y, parameters = calls["transpose"]
    assert (float(value), float(gradient)) == (30, 15), MESSAGE
    assert (float(cotangent), float(y), parameters) == (1, 5, {"scale": 3.0}), MESSAGE
    assert x.aval.dtype == jnp.float32, MESSAGE


def test_a_batching_rule_gets_none_for_what_is_not_mapped():
    product, calls = new_product()
    y = jax.vmap(product, (0, None))(jnp.arange(3.0), 5.0)
    _, dims, parameters = calls["batch"]
    np.testing.assert_array_equal(y, [0, 15, 30], MESSAGE)
    assert (tuple(dims), parameters) == ((0, None), {"scale": 3.0}), MESSAGE


def test_a_lowering_rule_gets_a_context_whose_types_can_be_replaced():
    product, calls = new_product()
    assert float(jax.jit(product)(2.0, 5.0)) == 30, MESSAGE
    ctx, _, parameters = calls["lower"]
    assert [aval.shape for aval in ctx.avals_in] == [(), ()], MESSAGE
    assert parameters == {"scale": 3.0}, MESSAGE


def test_a_lowering_rule_can_tell_over_how_many_devices_and_what_for():
    product, calls = new_product()
    mesh = jax.make_mesh((DEVICES,), ("data",), (AxisType.Auto,))
    x = jax.device_put(jnp.ones(DEVICES), NamedSharding(mesh, P("data")))
    jax.jit(product).lower(x, x)
    module = calls["lower"][0].module_context
    assert module.axis_context.num_devices == DEVICES, MESSAGE
    assert not module.lowering_parameters.for_export, MESSAGE
    other = dataclasses.replace(module.axis_context, device_assignment=None)
    assert module.replace(axis_context=other).axis_context == other, MESSAGE
    jax.export.export(jax.jit(product))(x, x)
    assert calls["lower"][0].module_context.lowering_parameters.for_export, MESSAGE


def test_what_is_traced_within_an_empty_mesh_has_none():
    def mesh_of_zeros():
        types = []
        jax.eval_shape(lambda: types.append(jax.typeof(jnp.zeros(2))))
        return types[0].sharding.mesh

    with jax.set_mesh(jax.make_mesh((DEVICES,), ("data",), (AxisType.Explicit,))):
        assert not mesh_of_zeros().empty, MESSAGE
        with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
            assert mesh_of_zeros().empty, MESSAGE


def test_a_sharding_tells_which_device_has_which_tile():
    mesh = AbstractMesh((2, 4), ("data", "model"))
    for spec, tiling in [
        (P("model"), [[0, 1, 2, 3] * 2, [0] * 8]),
        (P(None, "data"), [[0] * 8, [0] * 4 + [1] * 4]),
        (P("model", "data"), [[0, 1, 2, 3] * 2, [0] * 4 + [1] * 4]),
    ]:
        array = jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=NamedSharding(mesh, spec))
        np.testing.assert_array_equal(_primitive._tiling(array), tiling, MESSAGE)


def test_a_type_tells_over_which_axes_of_a_mesh_an_array_varies():
    types = []

    def note(x):
        types.append(jax.typeof(x))
        return x

    mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,))
    jax.shard_map(note, mesh=mesh, in_specs=P("data"), out_specs=P("data"))(jnp.ones(1))
    assert types[0].manual_axis_type.varying == {"data"}, MESSAGE
    replicated = types[0].sharding.update(spec=P())
    other = types[0].update(shape=(2, 3), dtype=jnp.bfloat16, sharding=replicated)
    assert (other.shape, other.dtype) == ((2, 3), jnp.bfloat16), MESSAGE
    assert other.manual_axis_type.varying == {"data"}, MESSAGE


def test_the_primitive_is_one_of_jax_s():
    assert isinstance(_primitive.primitive, jax.extend.core.Primitive), MESSAGE
