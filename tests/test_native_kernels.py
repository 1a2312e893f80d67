"""The compiled kernels, on every instruction set of this machine."""

import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from implementation_cases import case, compute, expected, lower_roles, operands

from grouped_conv_jax import explain, grouped_conv2d
from grouped_conv_jax.benchmarks import reference
from grouped_conv_jax.operation._description import Convolution, Role
from grouped_conv_jax.operation.implementations import native_library

# Rows longer than a tile and pairs of rows of seven, blocks of groups with some left over, several
# vectors of filters, and more channels than a task takes at once.
LARGE = {
    "depthwise": case((19, 61), (3, 3), 1, 1, 53, pad=1),
    "depthwise, rows of seven": case((7, 7), (5, 5), 1, 1, 40, pad=2),
    "depthwise, one vector and a bit": case((9, 131), (7, 4), 1, 1, 17, stride=(1, 2), pad=3),
    "depthwise, more taps than outputs": case((12, 11), (27, 31), 1, 1, 9, pad=15),
    "channel multipliers": case((15, 14), (3, 3), 1, 3, 37, stride=2, pad=1),
    "2 * 2 channels and filters": case((13, 30), (3, 5), 2, 2, 21, pad=((0, 2), (4, 1))),
    "4 * 4": case((28, 29), (3, 3), 4, 4, 11, pad=1),
    "8 * 8": case((29, 28), (3, 3), 8, 8, 5, stride=2, pad=1),
    "3 * 6": case((14, 15), (3, 2), 3, 6, 9, dilation=(2, 1), pad=1),
    "24 * 24": case((14, 17), (3, 3), 24, 24, 3, pad=1),
    "16 * 16, rows of seven": case((7, 7), (3, 3), 16, 16, 4, batch=3, pad=1),
    "80 * 96, 1x1": case((14, 15), (1, 1), 80, 96, 2),
    "one group, several blocks of channels": case((9, 8), (3, 3), 200, 72, 1, pad=1),
    "a stem": case((33, 34), (7, 7), 3, 40, 1, stride=2, pad=3),
    "1-D": case((3001,), (9,), 1, 1, 20, stride=2, dilation=3, pad=4),
    "3-D": case((9, 8, 17), (3, 2, 5), 4, 4, 5, stride=(2, 1, 2), dilation=(2, 1, 1), pad=2),
}
# Small enough for a look at every number that an infinity or a NaN reaches.
EXACT = {
    "depthwise": case((7, 6), (3, 3), 1, 1, 9, pad=1),
    "depthwise, whole vectors": case((8, 17), (3, 5), 1, 1, 21, stride=(2, 1), pad=2),
    "few channels": case((7, 8), (3, 2), 4, 4, 5, stride=2, pad=2),
    "wide": case((5, 6), (3, 3), 5, 18, 2, dilation=2, pad=((4, 1), (0, 3))),
}
TOLERANCES = {"float64": 1e-13, "float32": 1e-5, "bfloat16": 2e-2, "float16": 3e-3}


@pytest.fixture(autouse=True)
def _same_instruction_set():
    before = native_library.instruction_set()
    yield
    native_library.use(before)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", LARGE)
def test_large_cases_are_what_numpy_computes(name, dtype):
    check_all_roles(LARGE[name], np.dtype(getattr(jnp, dtype)))


def check_all_roles(case, dtype):
    exact = {role: expected(role, case, dtype) for role in Role}
    sums = {role: expected(role, case, dtype, magnitude=True) for role in Role}
    with jax.enable_x64(True):
        lowered, arguments = lower_roles("native", case, dtype)
        program = lowered.compile()
        for instruction_set in native_library.instruction_sets():
            native_library.use(instruction_set)
            for role, result in program(arguments).items():
                assert result.dtype == dtype
                error = np.abs(np.asarray(result, np.float64) - exact[role])
                allowed = TOLERANCES[dtype.name] * (sums[role] + 1e-3)
                assert (error <= allowed).all(), (instruction_set, role.name)


@st.composite
def convolutions(draw):
    """Any kind of convolution, up to a few times as large as the tiles."""
    channels, filters = draw(
        st.sampled_from([(1, 1), (1, 3), (2, 2), (4, 4), (3, 5), (8, 16), (16, 16), (40, 24)])
    )
    groups = draw(st.integers(1, 70 if channels == 1 else 9))
    axes = draw(st.integers(1, 2))
    image, size, stride, dilation = (
        draw(st.tuples(*[st.integers(1, most)] * axes)) for most in (33, 7, 3, 2)
    )
    # Enough padding for one output, and negative amounts too.
    pad = []
    for n, k, d in zip(image, size, dilation, strict=True):
        extent = (k - 1) * d + 1
        before = draw(st.integers(-1, extent))
        pad.append((before, max(draw(st.integers(-1, extent)), extent - n - before)))
    return case(
        image, size, channels, filters, groups, stride=stride, dilation=dilation, pad=tuple(pad)
    )


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(case=convolutions(), dtype=st.sampled_from(["float32", "bfloat16"]))
def test_any_shape_is_what_numpy_computes(case, dtype):
    check_all_roles(case, np.dtype(getattr(jnp, dtype)))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(("position", "value"), [(0, np.inf), (0.5, np.nan), (1, np.inf)])
@pytest.mark.parametrize("name", EXACT)
def test_infinities_and_nans_reach_what_they_reach_in_a_sum(name, position, value):
    case = EXACT[name]
    for role, spoilt in itertools.product(Role, range(2)):
        arrays = [operands(case, np.float64)[operand].copy() for operand in role.operands]
        flat = arrays[spoilt].reshape(-1)
        flat[int(position * (flat.size - 1))] = value
        wanted = reference.compute(role, *arrays, case.convolution)
        for instruction_set in native_library.instruction_sets():
            native_library.use(instruction_set)
            result = compute(role, *map(jnp.float32, arrays), case.convolution, "native")
            np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-4, err_msg=role.name)


def call(role=Role.FORWARD, shapes=None, dtypes=("float32",) * 3, **changes):
    """A custom call whose shapes or attributes may not fit."""
    shapes = shapes or ((1, 5, 5, 4), (3, 3, 2, 4), (1, 3, 3, 4))
    attributes = {
        "groups": np.int64(2),
        "stride": np.array([1, 1]),
        "dilation": np.array([1, 1]),
        "before": np.array([0, 0]),
    }
    lhs, rhs, out = map(jax.ShapeDtypeStruct, shapes, map(jnp.dtype, dtypes))
    function = jax.ffi.ffi_call(native_library.target(role), out)
    zeros = (jnp.zeros(one.shape, one.dtype) for one in (lhs, rhs))
    return jax.block_until_ready(function(*zeros, **(attributes | changes)))


def test_a_custom_call_that_fits_runs():
    assert call().shape == (1, 3, 3, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": np.int64(3)}, "x must have the channels of all groups"),
        ({"groups": np.int64(0)}, "groups must be positive"),
        ({"stride": np.array([1, 0])}, "stride and dilation must be positive"),
        ({"stride": np.array([1])}, "one number for each spatial axis"),
        ({"before": np.array([0, 2**40])}, "less than 2\\^31"),
        ({"shapes": ((1, 5, 4), (3, 3, 2, 4), (1, 3, 3, 4))}, "one to three spatial axes"),
        ({"shapes": ((2, 5, 5, 4), (3, 3, 2, 4), (1, 3, 3, 4))}, "as many images"),
        ({"shapes": ((1, 5, 5, 4), (3, 3, 2, 4), (1, 3, 3, 6))}, "the filters of all groups"),
        ({"dtypes": ("float32", "float16", "float32")}, "one dtype"),
        ({"dtypes": ("float32", "float32", "float16")}, "the operands' dtype"),
        ({"dtypes": ("int32", "int32", "int32")}, "must be float32"),
    ],
)
def test_a_custom_call_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"grouped_conv: .*{message}"):
        call(**changes)


def test_scratch_does_not_grow_with_the_batch():
    def held(batch):
        convolution = Convolution((64, 64), (3, 3), 32, (1, 1), ((1, 1), (1, 1)), (1, 1))
        x, filters = jnp.ones((batch, 64, 64, 32)), jnp.ones((3, 3, 1, 32))
        jax.block_until_ready(compute(Role.FORWARD, x, filters, convolution, "native"))
        return native_library.scratch_bytes()

    few = held(2)
    assert held(64) <= max(few, 2 << 20) * 2


def test_scratch_does_not_grow_with_the_height():
    convolution = Convolution((4096, 300), (3, 3), 16, (1, 1), ((1, 1), (1, 1)), (1, 1))
    x, filters = jnp.ones((1, 4096, 300, 16)), jnp.ones((3, 3, 1, 16))
    before = native_library.scratch_bytes()
    jax.block_until_ready(compute(Role.FORWARD, x, filters, convolution, "native"))
    threads = max(os.cpu_count(), jax.device_count())  # of XLA's pool
    assert native_library.scratch_bytes() - before <= (2 << 20) * threads


def test_the_kernels_are_refused_where_they_cannot_run():
    x, weights = jnp.ones((1, 5, 5, 4)), jnp.ones((3, 3, 2, 1, 2))
    convolve = jax.jit(lambda x, w: grouped_conv2d(x, w, implementation="native"))
    with pytest.raises(NotImplementedError, match="an exported program cannot call them"):
        jax.export.export(convolve)(x, weights)
    with pytest.raises(NotImplementedError, match="a program for 'tpu' cannot call them"):
        explain(x, weights, implementation="native", platform="tpu")


def test_exported_programs_call_no_kernel():
    x, weights = jnp.ones((1, 5, 5, 4)), jnp.ones((3, 3, 2, 1, 2))
    exported = jax.export.export(jax.jit(grouped_conv2d))(x, weights)
    assert "custom_call" not in exported.mlir_module()
    np.testing.assert_allclose(exported.call(x, weights), np.full((1, 3, 3, 2), 18.0))


def test_a_stride_beyond_the_image_leaves_one_output():
    x, weights = jnp.arange(50.0).reshape(1, 5, 5, 2), jnp.arange(18.0).reshape(3, 3, 1, 1, 2)
    expected = (np.asarray(x)[0, :3, :3] * np.asarray(weights)[:, :, 0, 0]).sum((0, 1))

    def of(stride):
        def loss(x, weights):
            y = grouped_conv2d(x, weights, stride=stride, implementation="native")
            return y.sum(), y

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(x, weights)

    (_, y), (dx, dw) = of(2**31 - 1)
    np.testing.assert_allclose(y, expected.reshape(1, 1, 1, 2))
    np.testing.assert_allclose(dx[0, :3, :3], weights[:, :, 0, 0])
    assert not dx[0, 3:].any()
    assert not dx[0, :, 3:].any()
    np.testing.assert_allclose(dw[:, :, 0, 0], x[0, :3, :3])
