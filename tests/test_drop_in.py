"""``conv_general_dilated`` does what lax's does, errors too, and takes the fast path for groups."""

import functools
import inspect
import re

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import COMPILED_QUICKLY
from drop_in_cases import BAD, CASES, POINTWISE, UNCHANGED, arrays
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from grouped_conv_jax import conv_general_dilated, conv_general_dilated_with_pointwise


def lowered(convolve, *operands):
    """The program of a function of two arrays, without what marks its convolutions."""
    text = jax.jit(convolve).lower(*operands).as_text()
    return re.sub(r",? ?mhlo.frontend_attributes = \{[^}]*\}", "", text).replace(" {}", "")


def both(arguments):
    """Our function and lax's."""
    return (
        functools.partial(f, **arguments) for f in (conv_general_dilated, lax.conv_general_dilated)
    )


def assert_same_error(ours, theirs, *operands):
    with pytest.raises((TypeError, ValueError, RuntimeError, AttributeError)) as expected:
        theirs(*operands)
    # JAX may add a note on shortened tracebacks.
    message, _, _ = str(expected.value).partition("\n-----")
    with pytest.raises(expected.type, match=f"^{re.escape(message)}($|\n-----)"):
        ours(*operands)


def test_the_signature_is_that_of_lax():
    ours, theirs = (
        [(p.name, p.default, p.kind) for p in inspect.signature(f).parameters.values()]
        for f in (conv_general_dilated, lax.conv_general_dilated)
    )
    assert ours == theirs


def test_the_older_name_is_the_same_function():
    assert conv_general_dilated_with_pointwise is conv_general_dilated


@pytest.mark.parametrize("name", (CASES | POINTWISE | UNCHANGED))
def test_the_jaxpr_is_that_of_lax(name):
    *shapes, arguments = (CASES | POINTWISE | UNCHANGED)[name]
    ours, theirs = (str(jax.make_jaxpr(f)(*arrays(*shapes))) for f in both(arguments))
    assert ours == theirs


# However it is spelled, the jaxpr is lax's; these differ in what is computed.
@pytest.mark.parametrize(
    "name",
    [
        *("NHWC", "by positions", "CHWN", "1-D, channels first", "3-D", "4-D", "SAME_LOWER"),
        *("SAME, dilated", "negative padding", "filter larger than the image", "no image"),
        *("transposed", "groups of the batch", "one group, padded 1x1", *POINTWISE),
    ],
)
def test_values_and_gradients_are_those_of_lax_on_the_fast_path(name):
    *shapes, arguments = (CASES | POINTWISE)[name]
    operands = arrays(*shapes)
    ours, theirs = both(arguments)
    if 0 not in jax.eval_shape(theirs, *operands).shape:
        program = lowered(ours, *operands)
        assert not re.search(r"(feature|batch)_group_count = ([2-9]|\d\d)", program)
        assert program != lowered(theirs, *operands)

    def values_and_gradients(convolve):
        y, pull = jax.vjp(convolve, *operands)
        # lax cannot differentiate without images.
        return y, pull(jnp.sin(y)) if 0 not in shapes[0] else None

    actual, desired = (
        jax.jit(values_and_gradients, static_argnums=0, compiler_options=COMPILED_QUICKLY)(f)
        for f in (ours, theirs)
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4), actual, desired
    )


@pytest.mark.parametrize(
    ("dtype", "preferred"),
    [("float32", "float64"), ("bfloat16", None), ("bfloat16", "float32"), ("float16", None)],
)
def test_the_dtype_is_that_of_lax(dtype, preferred):
    *shapes, arguments = CASES["NHWC"]
    with jax.enable_x64(True):
        operands = arrays(*shapes, dtype)
        ours, theirs = (
            f(*operands) for f in both(arguments | {"preferred_element_type": preferred})
        )
    assert ours.dtype == theirs.dtype
    tolerance = float(jnp.finfo(dtype if preferred is None else preferred).eps)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=0)


# No platform can lower empty filters.
@pytest.mark.parametrize("name", [name for name in UNCHANGED if name != "empty filters"])
def test_is_lowered_as_lax_is(name):
    *shapes, arguments = UNCHANGED[name]
    ours, theirs = (lowered(f, *arrays(*shapes)) for f in both(arguments))
    assert ours == theirs


def test_complex_numbers_which_jax_splits_are_computed_on_the_fast_path():
    *shapes, arguments = CASES["NHWC"]
    lhs, rhs = (jax.lax.complex(array, -2 * array[::-1]) for array in arrays(*shapes))
    ours, theirs = both(arguments)
    assert "convolution" not in lowered(ours, lhs, rhs)
    np.testing.assert_allclose(ours(lhs, rhs), theirs(lhs, rhs), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_other_dtypes_are_lowered_as_lax_lowers_them(dtype):
    *shapes, arguments = CASES["NHWC"]
    ours, theirs = (lowered(f, *arrays(*shapes, dtype)) for f in both(arguments))
    assert ours == theirs


@pytest.mark.parametrize("mode", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_iterators_are_read_once_as_lax_reads_them(dtype, mode):
    lhs, rhs, arguments = CASES["negative padding"]

    def fresh():
        return {
            "window_strides": iter(arguments["window_strides"]),
            "padding": (iter(pair) for pair in arguments["padding"]),
            "rhs_dilation": iter((1, 2)),
            "dimension_numbers": arguments["dimension_numbers"],
            "feature_group_count": arguments["feature_group_count"],
        }

    mesh = jax.make_mesh((1,), ("data",), (mode,))
    with jax.set_mesh(mesh):
        operands = jax.device_put(arrays(lhs, rhs, dtype), NamedSharding(mesh, P()))
        y = conv_general_dilated(*operands, **fresh())
    expected = lax.conv_general_dilated(*arrays(lhs, rhs, dtype), **fresh())
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("mode", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_a_number_is_checked_once(dtype, mode):
    class Size:
        """A number that counts how often it is looked at."""

        looks = 0

        def __index__(self):
            Size.looks += 1
            return 1

    lhs, rhs, arguments = CASES["NHWC"]
    arguments = arguments | {"padding": [(Size(), Size()), (Size(), Size())]}
    mesh = jax.make_mesh((1,), ("data",), (mode,))
    with jax.set_mesh(mesh):
        operands = jax.device_put(arrays(lhs, rhs, dtype), NamedSharding(mesh, P()))
        conv_general_dilated(*operands, **arguments)
    assert Size.looks == 4


@pytest.mark.parametrize("weak", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("name", ["NHWC", "NCHW, by default"])
def test_weak_types_are_those_of_lax(name, weak):
    *shapes, arguments = CASES[name]
    structs = [
        jax.ShapeDtypeStruct(shape, jnp.float32, weak_type=w)
        for shape, w in zip(shapes, weak, strict=True)
    ]
    operands = [jnp.full(s.shape, 0.5, None if s.weak_type else s.dtype) for s in structs]
    assert tuple(operand.weak_type for operand in operands) == weak
    kept = []
    for convolve in both(arguments):
        value_and_gradients = [
            convolve(*operands),
            *jax.vjp(convolve, *operands)[1](convolve(*operands)),
        ]
        traced = jax.eval_shape(convolve, *structs)
        kept.append([array.weak_type for array in (*value_and_gradients, traced)])
    ours, theirs = kept
    assert ours == theirs
    assert ours[0] is all(weak)


def test_a_sharding_goes_to_lax_unchanged():
    mesh = jax.make_mesh((1,), ("data",), (AxisType.Explicit,))
    *shapes, arguments = CASES["NHWC"]
    arguments = arguments | {"out_sharding": NamedSharding(mesh, P("data"))}
    with jax.set_mesh(mesh):
        operands = jax.device_put(arrays(*shapes), NamedSharding(mesh, P()))
        ours, theirs = (str(jax.make_jaxpr(f)(*operands)) for f in both(arguments))
    assert ours == theirs


def test_sizes_that_are_not_known_leave_it_to_lax_but_for_the_batch():
    batch, height = jax.export.symbolic_shape("batch, height")
    _, rhs, arguments = CASES["NHWC"]
    filters = jax.ShapeDtypeStruct(rhs, jnp.float32)

    def program(*shape):
        ours, _ = both(arguments)
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        return jax.export.export(jax.jit(ours))(x, filters).mlir_module()

    assert "convolution" not in program(batch, 6, 5, 8)
    assert "convolution" in program(2, height, 5, 8)


@pytest.mark.parametrize("name", BAD)
def test_errors_are_those_of_lax(name):
    *shapes, arguments = BAD[name]
    operands = arrays(*shapes)
    ours, theirs = both(arguments)
    assert_same_error(ours, theirs, *operands)


@pytest.mark.parametrize("bad", ["int32", "bfloat16"])
def test_operands_of_two_dtypes_are_an_error_of_lax(bad):
    *shapes, arguments = CASES["NHWC"]
    (lhs, _), (_, rhs) = arrays(*shapes), arrays(*shapes, bad)
    ours, theirs = both(arguments)
    assert_same_error(ours, theirs, lhs, rhs)


def test_a_list_for_an_array_is_an_error_of_lax():
    *shapes, arguments = CASES["NHWC"]
    lhs, rhs = arrays(*shapes)
    ours, theirs = both(arguments)
    assert_same_error(ours, theirs, lhs.tolist(), rhs)


class TestFlax:
    """A Flax layer gets it by one argument."""

    SETTINGS = (
        {"features": 12, "kernel_size": (3, 2), "feature_group_count": 4, "strides": (2, 1)},
        {"features": 8, "kernel_size": (3,), "feature_group_count": 2, "kernel_dilation": 2},
        {"features": 8, "kernel_size": (3, 3), "feature_group_count": 4, "padding": "CIRCULAR"},
    )

    def check(self, apply, parameters, x):
        """Compares ``apply(convolution)(parameters, x)`` and its gradients with lax's."""

        def loss(convolution, parameters, x):
            return jnp.sum(jnp.sin(apply(convolution)(parameters, x)))

        gradients = jax.jit(
            jax.value_and_grad(loss, (1, 2)), static_argnums=0, compiler_options=COMPILED_QUICKLY
        )
        results = [
            gradients(f, parameters, x) for f in (conv_general_dilated, lax.conv_general_dilated)
        ]
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), *results)
        program = lowered(apply(conv_general_dilated), parameters, x)
        assert not re.search(r"(feature|batch)_group_count = ([2-9]|\d\d)", program)

    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_linen_conv(self, settings):
        x = jax.random.normal(jax.random.key(0), (2, *(6,) * len(settings["kernel_size"]), 8))

        def layer(convolution):
            return flax.linen.Conv(**settings, conv_general_dilated=convolution)

        parameters, theirs = (
            layer(f).init(jax.random.key(1), x)
            for f in (conv_general_dilated, lax.conv_general_dilated)
        )
        jax.tree.map(np.testing.assert_array_equal, parameters, theirs)
        self.check(lambda f: layer(f).apply, parameters, x)

    def test_nnx_conv(self):
        settings = self.SETTINGS[0]
        sizes = {"in_features": 8, "out_features": settings["features"]}
        others = {name: value for name, value in settings.items() if name != "features"}
        x = jax.random.normal(jax.random.key(0), (2, *(6,) * len(settings["kernel_size"]), 8))

        def split(convolution):
            layer = flax.nnx.Conv(
                **sizes, **others, conv_general_dilated=convolution, rngs=flax.nnx.Rngs(1)
            )
            return flax.nnx.split(layer, flax.nnx.Param, ...)

        (_, parameters, _), (_, theirs, _) = map(
            split, (conv_general_dilated, lax.conv_general_dilated)
        )
        jax.tree.map(np.testing.assert_array_equal, parameters, theirs)

        def apply(convolution):
            graph, _, rest = split(convolution)
            return lambda parameters, x: flax.nnx.merge(graph, parameters, rest)(x)

        self.check(apply, parameters, x)
