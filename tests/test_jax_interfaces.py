"""The interfaces inside of JAX that the package is built on.

Where one of these tests fails, a new JAX has changed what ``_jax_internals.py`` uses.
"""

import dataclasses
import functools
import inspect
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core.primitives import conv_general_dilated_p
from jax.interpreters import mlir
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from grouped_conv_jax.operation import _jax_internals

DEVICES = 8
MESSAGE = f"JAX {jax.__version__} changed an interface that _jax_internals.py uses"


def new_product():
    """A primitive, and what its lowering rule is called with."""
    product, calls = jax.extend.core.Primitive("product_of_the_test"), {}

    def multiply(x, y, *, scale):
        return x * y * scale

    def result_type(x, y, **parameters):
        del y, parameters
        return x.update(weak_type=False)

    product.def_impl(multiply)
    product.def_abstract_eval(result_type)
    rule = mlir.lower_fun(multiply, multiple_results=False)

    def lower(ctx, *operands, **parameters):
        calls["lower"] = (ctx, operands, parameters)
        return rule(ctx.replace(avals_in=list(ctx.avals_in)), *operands, **parameters)

    mlir.register_lowering(product, lower, platform="cpu")
    return functools.partial(product.bind, scale=3.0), calls


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (mlir.lower_fun, ("fun", "multiple_results")),
        (mlir.register_lowering, ("prim", "rule", "platform")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_functions_take_these_arguments(function: Callable, parameters):
    taken = inspect.signature(function).parameters
    assert set(parameters) <= set(taken), f"{MESSAGE}: {function.__name__}{tuple(taken)}"


def test_convolutions_have_a_rule_for_each_platform_and_ours_is_in_front():
    tables = [mlir._lowerings, *mlir._platform_specific_lowerings.values()]
    rules = [t[conv_general_dilated_p].rule for t in tables if conv_general_dilated_p in t]
    assert len(rules) >= 1, MESSAGE
    assert {rule.__module__ for rule in rules} == {_jax_internals.__name__}, MESSAGE


def convolution():
    """A convolution, and its operands."""
    x, w = jnp.ones((1, 5, 4)), jnp.ones((3, 1, 4))
    numbers = ("NWC", "WIO", "NWC")
    return (
        lambda x, w: lax.conv_general_dilated(
            x, w, (1,), "SAME", dimension_numbers=numbers, feature_group_count=4
        ),
        x,
        w,
    )


def test_a_mark_is_in_the_equation_and_in_the_context_of_its_rule():
    convolve, *operands = convolution()

    def marked(*operands):
        with set_xla_metadata(mark_of_the_test="word"):
            return convolve(*operands)

    x, w = operands
    for function, arguments in [
        (marked, (x, w)),
        (jax.grad(lambda x, w: jnp.sum(jnp.sin(marked(x, w)))), (x, w)),
        (jax.vmap(marked, (0, None)), (x[None], w)),
    ]:
        *_, equation = _jax_internals.convolutions(jax.make_jaxpr(function)(*arguments).jaxpr)
        assert _jax_internals.metadata(equation.ctx) == {"mark_of_the_test": "word"}, MESSAGE

    product, calls = new_product()
    with set_xla_metadata(mark_of_the_test="word"):
        jax.jit(product).lower(2.0, 5.0)
    ctx = calls["lower"][0]
    assert _jax_internals.metadata(ctx) == {"mark_of_the_test": "word"}, MESSAGE
    assert _jax_internals.platforms(ctx) == ("cpu",), MESSAGE


def test_none_takes_a_mark_away():
    convolve, *operands = convolution()
    with set_xla_metadata(mark_of_the_test="word"), set_xla_metadata(mark_of_the_test=None):
        (equation,) = _jax_internals.convolutions(jax.make_jaxpr(convolve)(*operands).jaxpr)
    assert _jax_internals.metadata(equation.ctx) == {}, MESSAGE


def test_the_line_of_an_equation_is_known():
    convolve, *operands = convolution()
    (equation,) = _jax_internals.convolutions(jax.make_jaxpr(convolve)(*operands).jaxpr)
    assert "test_jax_interfaces.py:" in _jax_internals.where(equation), MESSAGE


WITHOUT_TABLES = """
import warnings
import jax.interpreters
import jax.numpy as jnp
from jax.interpreters import mlir

class WithoutTables:
    def __getattr__(self, name):
        if name == "_platform_specific_lowerings":
            raise AttributeError(name)
        return getattr(mlir, name)

jax.interpreters.mlir = WithoutTables()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import grouped_conv_jax
    x, w = jnp.ones((1, 5, 5, 4)), jnp.ones((3, 3, 1, 1, 4))
    ys = [grouped_conv_jax.grouped_conv2d(x, w, implementation=name) for name in (None, "lax")]
assert (ys[0] == ys[1]).all()
(text,) = [str(one.message) for one in caught if "grouped_conv_jax" in str(one.message)]
assert "every convolution is computed by jax.lax" in text, text
"""


def test_without_the_tables_lax_computes_everything_and_one_warning_says_so():
    subprocess.run([sys.executable, "-c", WITHOUT_TABLES], check=True, timeout=120)


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
        np.testing.assert_array_equal(_jax_internals.tiling(array), tiling, MESSAGE)
