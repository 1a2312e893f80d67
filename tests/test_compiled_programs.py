"""What XLA:CPU makes of the implementations: memory, fusion, size, determinism."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_roles
from implementation_cases import CASES, LONG_SUMS, case, compile_roles, compute, operands, supported
from sharding_cases import convolve

from grouped_conv_jax._convolution import Role


def compiled(role, shapes, implementation=None, mapped=False):
    """A role's program; of pairs of operands, one for each of two indices, if they are mapped."""
    arrays = [operands(shapes, np.float32)[operand] for operand in role.operands]
    if mapped:
        function = jax.vmap(marked(role, shapes))
        arrays = [np.stack([array, array]) for array in arrays]
    else:
        function = functools.partial(
            compute, role, convolution=shapes[-1], implementation=implementation
        )
    return jax.jit(function).lower(*arrays).compile()


def marked(role, shapes):
    """A role of lax's convolution, as a program gets it."""
    *lhs_and_rhs, convolution = shapes
    forward = functools.partial(convolve, convolution=convolution)
    x, filters = (jax.ShapeDtypeStruct(shape, np.float32) for shape in lhs_and_rhs)
    return {
        Role.FORWARD: forward,
        Role.INPUT_GRADIENT: lambda w, y: jax.linear_transpose(lambda x: forward(x, w), x)(y)[0],
        Role.FILTER_GRADIENT: lambda x, y: jax.linear_transpose(lambda w: forward(x, w), filters)(
            y
        )[0],
    }[role]


@pytest.mark.parametrize(
    "name",
    [
        "depthwise",
        "many channels per group",
        "two groups",
        "strided",
        "cropped, many channels",
        "1-D, many channels",
        "3-D, many channels",
    ],
)
def test_filter_gradients_of_every_sample_are_right_and_no_convolutions(name):
    x_shape, filter_shape, convolution = CASES[name]
    shapes = (4, *x_shape[1:]), filter_shape, convolution
    arrays = operands(shapes, np.float32)
    x, y = arrays[Role.INPUT_GRADIENT], arrays[Role.FORWARD]

    one = (1, *x_shape[1:]), filter_shape, convolution
    of_sample = marked(Role.FILTER_GRADIENT, one)
    compiled = jax.jit(jax.vmap(of_sample)).lower(x[:, None], y[:, None]).compile()
    one_by_one = [
        reference_roles.filter_gradient(
            image[None].astype(np.float64), cotangent[None].astype(np.float64), convolution
        )
        for image, cotangent in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(compiled(x[:, None], y[:, None]), one_by_one, rtol=1e-5, atol=1e-5)
    # XLA:CPU computes a convolution in a loop on one core.
    assert " convolution(" not in compiled.as_text()


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(
    "shapes",
    [
        pytest.param(case((28, 28), (3, 3), 1, 1, 32, batch=4, pad=1), id="depthwise"),
        pytest.param(case((28, 28), (3, 3), 1, 1, 32, batch=4, stride=2, pad=1), id="strided"),
        pytest.param(case((7, 7), (3, 3), 1, 1, 192, batch=8, pad=1), id="small"),
        pytest.param(case((2, 2), (3, 3), 1, 1, 192, batch=8, pad=1), id="tiny"),
        pytest.param(case((28, 28), (5, 5), 1, 1, 32, batch=4, pad=2), id="5x5"),
        pytest.param(case((28, 28), (7, 7), 1, 1, 32, batch=4, pad=3), id="7x7"),
        pytest.param(case((28, 28), (11, 11), 1, 1, 32, batch=4, pad=5), id="11x11"),
        pytest.param(case((14, 14), (3, 3), 4, 4, 32, batch=4, pad=1), id="4 * 4 weights"),
        pytest.param(case((14, 14), (3, 3), 16, 16, 8, batch=4, pad=1), id="many channels"),
        pytest.param(case((28, 28), (3, 3), 8, 8, 16, batch=8, pad=1), id="filters as lanes"),
        pytest.param(
            case((56, 56), (3, 3), 8, 8, 16, batch=8, stride=2, pad=1),
            id="filters as lanes, strided",
        ),
        pytest.param(
            case((7, 7), (5, 5), 16, 16, 48, batch=8, pad=2), id="filters as lanes, small"
        ),
        pytest.param(
            case((14, 14), (3, 3), 32, 32, 32, batch=8, stride=2, pad=1),
            id="filters as lanes, small and strided",
        ),
        pytest.param(case((28, 28), (1, 1), 64, 64, 4, batch=8), id="1x1, sums over channels"),
        pytest.param(case((56, 56), (1, 1), 16, 96, 1, batch=2), id="1x1, one narrow group"),
        pytest.param(case((13, 13), (5, 5), 48, 48, 2, batch=8, pad=2), id="two groups"),
        pytest.param(case((28, 28), (7, 7), 1, 1, 192, batch=8, pad=3), id="strips"),
        pytest.param(case((7, 7), (7, 7), 1, 1, 768, batch=8, pad=3), id="strips, small"),
        pytest.param(case((56, 56), (9, 9), 1, 1, 96, batch=4, stride=2, pad=4), id="strips, s2"),
        pytest.param(case((14, 14), (11, 11), 1, 1, 384, batch=8, pad=5), id="strips, 11x11"),
        pytest.param(case((28, 28), (21, 21), 1, 1, 128, batch=2, pad=10), id="strips, a loop"),
        pytest.param(case((1024,), (255,), 1, 1, 64, batch=8, pad=127), id="strips, 1-D"),
        pytest.param(case((28, 28), (29, 29), 1, 1, 256, batch=8, pad=14), id="29x29"),
        pytest.param(case((14, 14), (27, 27), 1, 1, 64, batch=8, pad=13), id="pixels in strips"),
        pytest.param(case((20, 20), (29, 29), 1, 1, 64, batch=8, pad=14), id="pixels, a loop"),
        pytest.param(case((24, 24), (31, 31), 1, 1, 64, batch=1, pad=15), id="24x24, one image"),
        pytest.param(case((7, 7), (31, 31), 1, 1, 256, batch=1, pad=15), id="pixels, one image"),
        pytest.param(case((14, 14), (7, 7), 16, 16, 4, batch=8, pad=3), id="many channels, 7x7"),
        pytest.param(case((1024,), (101,), 1, 1, 32, batch=4, pad=50), id="1-D, long filter"),
        pytest.param(case((256,), (101,), 16, 16, 4, batch=8, pad=50), id="1-D, many channels"),
    ],
)
def test_temporary_arrays_are_no_larger_than_inputs_and_outputs_or_lax_s(shapes, role):
    def temporary(implementation):
        return compiled(role, shapes, implementation).memory_analysis().temp_size_in_bytes

    arrays = operands(shapes, np.float32).values()
    limit = max(sum(array.nbytes for array in arrays), temporary("lax"))
    assert temporary(None) <= limit


@pytest.mark.parametrize("role", [Role.FORWARD, Role.INPUT_GRADIENT])
def test_filters_are_lanes_of_sums_that_all_cores_add_up_in_place(role):
    program = compiled(role, case((28, 28), (3, 3), 8, 8, 32, batch=8, pad=1)).as_text()
    assert " convolution(" not in program
    # The sum adds to what it gets, in the layout that it is to be read in, on all cores.
    sums = re.findall(r"= f32\[256,784,8\]\{2,1,0\} fusion\(.*", program)
    assert sums
    assert all("outer_dimension_partitions" in one for one in sums)
    # Of the images there is a copy, half of the channels at a time, with the groups outside.
    assert re.search(r"= f32\[256,30,30,4\]\{3,2,1,0\} fusion\(", program)
    # And the total is not copied from turn to turn.
    assert not re.search(r"f32\[256,784,8\]\S* copy\(", program)


@pytest.mark.parametrize("role", [Role.FORWARD, Role.INPUT_GRADIENT])
@pytest.mark.parametrize(
    ("shapes", "strips", "sums"),
    [
        # Two parts of the groups, 49 terms in two turns each.
        pytest.param(
            case((28, 28), (7, 7), 1, 1, 192, batch=8, pad=3), "12,8,28,28,8", 4, id="all parts"
        ),
        # One of four parts, 289 terms in ten turns.
        pytest.param(
            case((30, 28), (17, 17), 1, 1, 128, batch=4, pad=8), "4,4,30,28,8", 10, id="a loop"
        ),
    ],
)
def test_strips_lie_one_after_the_other_and_all_cores_add_them_up(shapes, strips, sums, role):
    program = compiled(role, shapes).as_text()
    found = re.findall(rf"%add_add\S* = f32\[{strips}\]{{4,3,2,1,0}} fusion\(.*", program)
    assert len(found) == sums
    assert all("outer_dimension_partitions" in one for one in found)
    assert not re.search(rf"f32\[{strips}\]\S* copy\(", program)


@pytest.mark.parametrize("role", [Role.FORWARD, Role.INPUT_GRADIENT])
def test_sums_over_the_pixels_of_small_images_lie_in_strips_of_all_images(role):
    program = compiled(role, case((14, 14), (27, 27), 1, 1, 128, batch=8, pad=13)).as_text()
    # 196 pixels in seven turns, for all images.
    found = re.findall(r"%add_add\S* = f32\[16,8,14,14,8\]\{4,3,2,1,0\} fusion\(.*", program)
    assert len(found) == 7
    assert all("outer_dimension_partitions" in one for one in found)


@pytest.mark.parametrize("role", [Role.FORWARD, Role.INPUT_GRADIENT])
def test_sums_over_the_channels_of_1x1_filters_copy_no_image_and_keep_the_groups_apart(role):
    program = compiled(role, case((28, 28), (1, 1), 40, 40, 3, batch=8)).as_text()
    # Three turns, on all cores. An axis of groups and filters would be one loop over both.
    sums = re.findall(r"%add_add\S* = f32\[6272,3,40\]\{2,1,0\} fusion\(.*", program)
    assert len(sums) == 3
    assert all("outer_dimension_partitions" in one for one in sums)
    assert " dot(" not in program
    assert not re.search(r"f32\[(6272,3,40|8,28,28,120)\]\S* (copy|transpose)\(", program)


@pytest.mark.parametrize("role", [Role.FORWARD, Role.INPUT_GRADIENT])
def test_16_bit_numbers_that_meet_1x1_filters_are_matrix_products(role):
    shapes = case((28, 28), (1, 1), 40, 40, 3, batch=8)
    arrays = [operands(shapes, jnp.bfloat16)[operand] for operand in role.operands]

    program = jax.jit(functools.partial(compute, role, convolution=shapes[-1])).lower(*arrays)
    assert "stablehlo.dot_general" in program.as_text()


@pytest.mark.parametrize("role", [Role.FORWARD, Role.INPUT_GRADIENT])
def test_a_gpu_s_sums_are_one_fusion_and_not_strips(role):
    shapes = case((28, 28), (7, 7), 1, 1, 192, batch=8, pad=3)
    arrays = [operands(shapes, np.float32)[operand] for operand in role.operands]

    def program(platform):
        function = jax.jit(marked(role, shapes))
        return jax.export.export(function, platforms=[platform])(*arrays).mlir_module()

    assert "stablehlo.while" in program("cpu")
    assert "stablehlo.while" not in program("cuda")
    assert "stablehlo.convolution" not in program("cuda")


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(
    "name",
    [
        "depthwise",
        "4 * 4 weights a tap",
        "many channels per group",
        "many channels in many groups",
        "filters as lanes",
        "filters as lanes, a few images at a time",
        "1x1, sums over channels",
        "strips",
        "strips, a loop over parts",
        "pixels in strips",
        "pixels in strips, a loop over rows",
        "wide groups, large filter",
        "large filter",
        "slabs of rows",
        "31x31",
        "1-D, long filter",
    ],
)
def test_loops_are_not_functions_that_run_on_one_core(name, role):
    # With two mapped operands pairs take turns too.
    for mapped in (False, True):
        # So JAX 0.12 calls such functions.
        assert "xla_cpu_small_call" not in compiled(role, CASES[name], mapped=mapped).as_text()


@pytest.mark.parametrize(
    "shapes",
    [
        pytest.param(case((56, 56), (3, 3), 1, 1, 128, pad=1), id="tiles of a row"),
        pytest.param(case((7, 7), (3, 3), 1, 1, 192, stride=2, pad=1), id="tiles of rows"),
        pytest.param(case((28, 28), (1, 11), 1, 1, 64, pad=((0, 0), (5, 5))), id="eleven in a row"),
    ],
)
def test_the_taps_of_a_filter_gradient_are_fused_with_their_concatenation(shapes):
    x, y = (operands(shapes, np.float32)[role] for role in Role.FILTER_GRADIENT.operands)

    gradient = functools.partial(
        compute, Role.FILTER_GRADIENT, convolution=shapes[-1], implementation="taps"
    )
    program = jax.jit(gradient).lower(x, y).compile().as_text()
    entry = program[program.index("\nENTRY") :]
    assert "fusion(" in entry
    assert " concatenate(" not in entry


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        pytest.param(
            case((999,), (301,), 1, 1, 4, pad=150), case((999,), (961,), 1, 1, 4, pad=480), id="1-D"
        ),
        pytest.param(
            case((40, 40), (21, 21), 1, 1, 4, pad=10),
            case((40, 40), (41, 41), 1, 1, 4, pad=20),
            id="2-D",
        ),
    ],
)
def test_programs_grow_less_than_filters(smaller, larger, role):
    def size(shapes):
        arrays = operands(shapes, np.float32)
        lhs, rhs = (jnp.asarray(arrays[operand]) for operand in role.operands)
        function = functools.partial(compute, role, convolution=shapes[-1])
        return len(jax.jit(function).lower(lhs, rhs).as_text())

    growth = math.prod(larger[-1].filter_size) / math.prod(smaller[-1].filter_size)
    assert size(larger) < (1 + growth) / 2 * size(smaller)


@pytest.mark.parametrize(("implementation", "shapes"), supported(LONG_SUMS))
def test_results_are_the_same_bits_from_run_to_run_and_compilation_to_compilation(
    implementation, shapes
):
    dtype = np.dtype(np.float32)
    program, arguments = compile_roles(implementation, shapes, dtype)
    again, _ = compile_roles(implementation, shapes, dtype)
    first = program(arguments)
    for repeated in (program(arguments), program(arguments), again(arguments)):
        jax.tree.map(np.testing.assert_array_equal, repeated, first)
