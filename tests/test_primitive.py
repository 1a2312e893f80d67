"""What surrounds the primitive: eager and compiled calls, export, shards, dtypes, JAX's inside."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import ad, batching, mlir
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from grouped_conv_jax import _choice, _primitive, explain, grouped_conv2d

FAST = tuple(name for name in _choice._MODULES if name != "lax")
CHANNELS, FILTERS, GROUPS = 2, 2, 3
DEVICES = 8
convolve = functools.partial(grouped_conv2d, stride=(2, 1), padding=(1, 2, 0, 1))


def operands(batch=DEVICES, dtype=jnp.float32):
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, 6, 5, GROUPS * CHANNELS))
    weights = random.standard_normal((3, 2, CHANNELS, FILTERS, GROUPS))
    return jnp.asarray(x, dtype), jnp.asarray(weights, dtype)


def loss(x, weights, **arguments):
    return jnp.sum(jnp.sin(convolve(x, weights, **arguments)))


def values_and_gradients(**arguments):
    return jax.value_and_grad(functools.partial(loss, **arguments), (0, 1))


def assert_close(actual, desired, tolerance=1e-5):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance),
        actual,
        desired,
    )


@functools.cache
def reference():
    """Loss and gradients by lax."""
    return jax.jit(values_and_gradients(implementation="lax"))(*operands())


def group_counts(program):
    """The counts of groups of all convolutions in a program's text."""
    return set(re.findall(r"(?:feature|batch)_group_count\s*=\s*(\d+)", program))


class TestCalls:
    @pytest.mark.parametrize("implementation", [None, *FAST])
    def test_evaluates_without_jit(self, implementation):
        assert_close(values_and_gradients(implementation=implementation)(*operands()), reference())

    def test_evaluates_where_jit_is_disabled(self):
        with jax.disable_jit():
            assert_close(values_and_gradients()(*operands()), reference())

    def test_shapes_are_known_before_anything_is_computed(self):
        abstract = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in operands()]
        assert jax.eval_shape(convolve, *abstract) == jax.eval_shape(
            functools.partial(convolve, implementation="lax"), *abstract
        )

    @pytest.mark.parametrize("implementation", [None, *FAST])
    def test_compiles_ahead_of_time(self, implementation):
        abstract = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in operands()]
        function = jax.jit(values_and_gradients(implementation=implementation))
        assert_close(function.lower(*abstract).compile()(*operands()), reference())

    @pytest.mark.parametrize("jit", [False, True])
    def test_debug_nans_finds_a_nan_and_nothing_else(self, jit):
        function = jax.jit(values_and_gradients()) if jit else values_and_gradients()
        x, weights = operands()
        with jax.debug_nans(True):
            assert_close(function(x, weights), reference())
            with pytest.raises(FloatingPointError, match="nan"):
                function(x.at[0, 0, 0, 0].set(jnp.nan), weights)

    @pytest.mark.parametrize(
        ("channels", "filters", "groups"), [(1, 1, 64), (1, 2, 32), (8, 8, 8), (32, 16, 2)]
    )
    def test_no_grouped_convolution_is_left_where_another_implementation_is_chosen(
        self, channels, filters, groups
    ):
        x = jax.ShapeDtypeStruct((2, 8, 8, channels * groups), jnp.float32)
        weights = jax.ShapeDtypeStruct((3, 3, channels, filters, groups), jnp.float32)
        choices = explain(x, weights, stride=(2, 1), padding=(1, 2, 0, 1), platform="cpu")
        assert "lax" not in {choice.implementation for choice in choices.values()}
        lowered = jax.jit(values_and_gradients()).lower(x, weights)
        for program in lowered.as_text(), lowered.compile().as_text():
            assert group_counts(program) <= {"1"}


class TestDtypes:
    @pytest.mark.parametrize("implementation", [None, *FAST])
    @pytest.mark.parametrize("preferred", ["float32", "float16"])
    def test_a_wider_result_has_gradients_in_the_operands_dtype(self, implementation, preferred):
        arguments = {"preferred_element_type": preferred}
        x, weights = operands(2, jnp.bfloat16)
        # The cotangent is as wide as the result, and less than rounding apart from what lax gets.
        cotangent = convolve(x, weights, implementation="lax", **arguments)

        def pulled(implementation):
            function = functools.partial(convolve, implementation=implementation, **arguments)
            y, pull = jax.vjp(function, x, weights)
            return y, *pull(cotangent)

        ours, theirs = jax.jit(pulled, static_argnums=0)(implementation), pulled("lax")
        for actual, desired in zip(ours, theirs, strict=True):
            assert actual.dtype == desired.dtype
            # On its way to float16 lax rounds to bfloat16.
            rounded = jnp.bfloat16 if actual.dtype == jnp.float16 else actual.dtype
            tolerance = float(jnp.finfo(rounded).eps)
            np.testing.assert_allclose(
                actual.astype(jnp.float32),
                desired.astype(jnp.float32),
                rtol=tolerance,
                atol=tolerance * float(jnp.abs(desired).max()),
            )

    def test_second_derivatives_of_a_wider_result_keep_the_operands_dtype(self):
        x, weights = operands(1, jnp.bfloat16)
        function = functools.partial(loss, preferred_element_type=jnp.float32)
        tangents = jax.jvp(jax.grad(function, (0, 1)), (x, weights), (x, weights))[1]
        assert [tangent.dtype for tangent in tangents] == [jnp.bfloat16, jnp.bfloat16]

    def test_a_float64_result_needs_float64(self):
        with pytest.raises(ValueError, match=r"preferred_element_type=.* needs jax_enable_x64"):
            convolve(*operands(), preferred_element_type=jnp.float64)


class TestExport:
    @pytest.mark.parametrize("implementation", [None, *FAST])
    def test_one_program_for_three_platforms_and_any_batch(self, implementation):
        x, weights = operands()
        (batch,) = jax.export.symbolic_shape("batch")
        exported = jax.export.export(
            jax.jit(values_and_gradients(implementation=implementation)),
            platforms=["cpu", "cuda", "tpu"],
        )(jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), weights)
        again = jax.export.deserialize(exported.serialize())
        assert again.platforms == ("cpu", "cuda", "tpu")
        assert_close(again.call(x, weights), reference())
        assert_close(
            again.call(x[:1], weights), values_and_gradients(implementation="lax")(x[:1], weights)
        )

    def test_an_exported_program_is_differentiated_after_it_was_read(self):
        exported = jax.export.export(jax.jit(loss), platforms=["cpu", "cuda", "tpu"])(*operands())
        again = jax.export.deserialize(exported.serialize(vjp_order=1))
        assert_close(jax.grad(again.call, (0, 1))(*operands()), reference()[1])

    def test_each_platform_of_one_program_gets_its_own_choice(self, monkeypatch):
        def choose(role, convolution, channels, filters, platform, implementation=None):
            del role, convolution, channels, filters, implementation
            return _choice.Choice("lax" if platform == "tpu" else "taps", "for the test")

        monkeypatch.setattr(_choice, "choose", choose)
        # Another shape than in the other tests, whose lowering may be remembered.
        x, weights = operands(7)

        def counts(*platforms):
            exported = jax.export.export(jax.jit(convolve), platforms=platforms)(x, weights)
            return group_counts(exported.mlir_module()) - {"1"}

        assert counts("cpu") == counts("cuda") == counts("cpu", "cuda") == set()
        assert counts("tpu") == counts("cpu", "cuda", "tpu") == {str(GROUPS)}


class TestShardMap:
    """Over all devices."""

    @pytest.fixture(params=[AxisType.Auto, AxisType.Explicit])
    def mesh(self, request):
        mesh = jax.make_mesh((DEVICES,), ("data",), (request.param,))
        with jax.set_mesh(mesh):
            yield mesh

    def operands(self, mesh):
        x, weights = operands()
        return jax.device_put(x, NamedSharding(mesh, P("data"))), weights

    @pytest.mark.parametrize("check", [False, True])
    @pytest.mark.parametrize("implementation", FAST)
    def test_gradients_inside_of_each_shard(self, mesh, implementation, check):
        def gradients(x, weights):
            local = jax.lax.pcast(weights, "data", to="varying") if check else weights
            value, (dx, dw) = values_and_gradients(implementation=implementation)(x, local)
            return jax.lax.psum(value, "data"), (dx, jax.lax.psum(dw, "data"))

        sharded = jax.shard_map(
            gradients,
            in_specs=(P("data"), P()),
            out_specs=(P(), (P("data"), P())),
            check_vma=check,
        )
        assert_close(jax.jit(sharded)(*self.operands(mesh)), reference())

    @pytest.mark.parametrize("implementation", FAST)
    def test_gradients_of_the_whole(self, mesh, implementation):
        sharded = jax.shard_map(
            functools.partial(convolve, implementation=implementation),
            in_specs=(P("data"), P()),
            out_specs=P("data"),
        )
        gradients = jax.value_and_grad(lambda x, w: jnp.sum(jnp.sin(sharded(x, w))), (0, 1))
        assert_close(jax.jit(gradients)(*self.operands(mesh)), reference())

    def test_both_operands_sharded_over_different_axes(self):
        shape = (2, DEVICES // 2)
        mesh = jax.make_mesh(shape, ("data", "copies"), (AxisType.Auto,) * 2)
        x, weights = operands()
        many = jnp.stack([weights] * shape[1])
        sharded = jax.shard_map(
            lambda x, weights: convolve(x, weights[0])[None],
            mesh=mesh,
            in_specs=(P("data"), P("copies")),
            out_specs=P("copies", "data"),
        )
        expected = convolve(x, weights, implementation="lax")
        assert_close(jax.jit(sharded)(x, many), jnp.stack([expected] * shape[1]))


class TestInterfacesBelowJax:
    """Where one of these fails, a new JAX has changed what ``_primitive.py`` is built on."""

    message = f"JAX {jax.__version__} changed an interface that grouped_conv_jax/_primitive.py uses"

    def product(self):
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
    def test_functions_take_these_arguments(self, function: Callable, parameters):
        taken = inspect.signature(function).parameters
        assert set(parameters) <= set(taken), f"{self.message}: {function.__name__}{tuple(taken)}"

    def test_a_transpose_rule_gets_the_cotangent_and_the_type_of_the_linear_operand(self):
        product, calls = self.product()
        value, gradient = jax.value_and_grad(product)(2.0, 5.0)
        cotangent, x, y, parameters = calls["transpose"]
        assert (float(value), float(gradient)) == (30, 15), self.message
        assert (float(cotangent), float(y), parameters) == (1, 5, {"scale": 3.0}), self.message
        assert x.aval.dtype == jnp.float32, self.message

    def test_a_batching_rule_gets_none_for_what_is_not_mapped(self):
        product, calls = self.product()
        y = jax.vmap(product, (0, None))(jnp.arange(3.0), 5.0)
        _, dims, parameters = calls["batch"]
        np.testing.assert_array_equal(y, [0, 15, 30], self.message)
        assert (tuple(dims), parameters) == ((0, None), {"scale": 3.0}), self.message

    def test_a_lowering_rule_gets_a_context_whose_types_can_be_replaced(self):
        product, calls = self.product()
        assert float(jax.jit(product)(2.0, 5.0)) == 30, self.message
        ctx, _, parameters = calls["lower"]
        assert [aval.shape for aval in ctx.avals_in] == [(), ()], self.message
        assert parameters == {"scale": 3.0}, self.message

    def test_a_lowering_rule_can_tell_over_how_many_devices_and_what_for(self):
        product, calls = self.product()
        mesh = jax.make_mesh((DEVICES,), ("data",), (AxisType.Auto,))
        x = jax.device_put(jnp.ones(DEVICES), NamedSharding(mesh, P("data")))
        jax.jit(product).lower(x, x)
        module = calls["lower"][0].module_context
        assert module.axis_context.num_devices == DEVICES, self.message
        assert not module.lowering_parameters.for_export, self.message
        other = dataclasses.replace(module.axis_context, device_assignment=None)
        assert module.replace(axis_context=other).axis_context == other, self.message
        jax.export.export(jax.jit(product))(x, x)
        assert calls["lower"][0].module_context.lowering_parameters.for_export, self.message

    def test_what_is_traced_within_an_empty_mesh_has_none(self):
        def mesh_of_zeros():
            types = []
            jax.eval_shape(lambda: types.append(jax.typeof(jnp.zeros(2))))
            return types[0].sharding.mesh

        with jax.set_mesh(jax.make_mesh((DEVICES,), ("data",), (AxisType.Explicit,))):
            assert not mesh_of_zeros().empty, self.message
            with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
                assert mesh_of_zeros().empty, self.message

    def test_a_sharding_tells_which_device_has_which_tile(self):
        mesh = AbstractMesh((2, 4), ("data", "model"))
        for spec, tiling in [
            (P("model"), [[0, 1, 2, 3] * 2, [0] * 8]),
            (P(None, "data"), [[0] * 8, [0] * 4 + [1] * 4]),
            (P("model", "data"), [[0, 1, 2, 3] * 2, [0] * 4 + [1] * 4]),
        ]:
            array = jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=NamedSharding(mesh, spec))
            np.testing.assert_array_equal(_primitive._tiling(array), tiling, self.message)

    def test_a_type_tells_over_which_axes_of_a_mesh_an_array_varies(self):
        types = []

        def note(x):
            types.append(jax.typeof(x))
            return x

        mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,))
        jax.shard_map(note, mesh=mesh, in_specs=P("data"), out_specs=P("data"))(jnp.ones(1))
        assert types[0].manual_axis_type.varying == {"data"}, self.message
        replicated = types[0].sharding.update(spec=P())
        other = types[0].update(shape=(2, 3), dtype=jnp.bfloat16, sharding=replicated)
        assert (other.shape, other.dtype) == ((2, 3), jnp.bfloat16), self.message
        assert other.manual_axis_type.varying == {"data"}, self.message

    def test_the_primitive_is_one_of_jax_s(self):
        assert isinstance(_primitive.primitive, jax.extend.core.Primitive), self.message
