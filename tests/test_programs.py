"""What becomes of a marked convolution: eager and compiled calls, export, shards, dtypes."""

import functools
import re

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from grouped_conv_jax import explain, grouped_conv2d
from grouped_conv_jax.operation import _choice
from grouped_conv_jax.operation.implementations import REGISTRY

FAST = tuple(name for name in REGISTRY if name != "lax")
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
    def test_evaluates_without_jit(self):
        assert_close(values_and_gradients()(*operands()), reference())

    def test_evaluates_where_jit_is_disabled(self):
        with jax.disable_jit():
            assert_close(values_and_gradients()(*operands()), reference())

    def test_shapes_are_known_before_anything_is_computed(self):
        abstract = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in operands()]
        assert jax.eval_shape(convolve, *abstract) == jax.eval_shape(
            functools.partial(convolve, implementation="lax"), *abstract
        )

    @pytest.mark.parametrize("implementation", FAST)
    def test_compiles_ahead_of_time(self, implementation):
        abstract = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in operands()]
        function = jax.jit(values_and_gradients(implementation=implementation))
        assert_close(function.lower(*abstract).compile()(*operands()), reference())

    @pytest.mark.parametrize("jit", [False, True])
    @pytest.mark.parametrize(
        ("debug", "bad", "message"),
        [(jax.debug_nans, jnp.nan, "nan"), (jax.debug_infs, jnp.inf, "inf")],
    )
    def test_debugging_finds_what_it_looks_for_and_nothing_else(self, jit, debug, bad, message):
        function = jax.jit(values_and_gradients()) if jit else values_and_gradients()
        x, weights = operands()
        with debug(True):
            assert_close(function(x, weights), reference())
            with pytest.raises(FloatingPointError, match=message):
                function(x.at[0, 0, 0, 0].set(bad), weights)

    @pytest.mark.parametrize("jit", [False, True])
    @pytest.mark.parametrize("position", [0, 1])
    def test_debugging_finds_a_nan_that_only_a_gradient_has(self, jit, position):
        def of_root(x, weights):
            # The derivative of the root of zero is infinite, and infinite times zero is no number.
            return jnp.sum(jnp.sqrt(convolve(0 * x, weights) ** 2))

        function = jax.grad(of_root, position)
        with jax.debug_nans(True), pytest.raises(FloatingPointError, match="nan"):
            (jax.jit(function) if jit else function)(*operands())

    @pytest.mark.parametrize(("channels", "filters", "groups"), [(1, 2, 32), (32, 16, 2)])
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
    @pytest.mark.parametrize(
        ("implementation", "preferred"),
        [(None, "float32"), ("native", "float16"), ("taps", "float16"), ("blocks", "float32")],
    )
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
    @pytest.mark.parametrize("implementation", [None, "blocks"])
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
        def choose(role, convolution, channels, filters, setting, *others):
            del role, convolution, channels, filters, others
            return _choice.Choice("lax" if setting.platform == "tpu" else "taps", "for the test")

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

    @pytest.mark.parametrize(("implementation", "check"), [("native", True), ("taps", False)])
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

    def test_gradients_of_the_whole(self, mesh):
        sharded = jax.shard_map(convolve, in_specs=(P("data"), P()), out_specs=P("data"))
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
