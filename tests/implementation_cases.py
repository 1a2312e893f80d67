"""Convolutions by the implementation and the form of it that they are meant to reach."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from grouped_conv_jax.benchmarks import reference
from grouped_conv_jax.benchmarks.suites import Case
from grouped_conv_jax.operation import _execution
from grouped_conv_jax.operation._description import Role
from grouped_conv_jax.operation.implementations import REGISTRY

# Blocks take another form on accelerators, which a CPU computes too.
LANE_TILES = "blocks on accelerators"


def case(image, filter_size, channels, filters, groups, *, batch=2, stride=1, dilation=1, pad=0):
    """A case from channels and filters per group; numbers stand for every axis."""
    rank = len(image)

    def every_axis(value):
        return value if isinstance(value, tuple) else (value,) * rank

    padding = pad if isinstance(pad, tuple) else ((pad, pad),) * rank
    return Case(
        batch,
        image,
        groups * channels,
        groups * filters,
        filter_size,
        groups,
        every_axis(stride),
        every_axis(dilation),
        padding,
    )


TAPS = {
    "depthwise": case((7, 6), (3, 2), 1, 1, 5, pad=1),
    "depthwise with multiplier": case((6, 7), (2, 3), 1, 3, 4, pad=1),
    "channels summed into one filter": case((6, 5), (3, 3), 3, 1, 4, pad=1),
    "few channels per group": case((6, 5), (3, 3), 2, 2, 6, pad=1),
    "uneven channels per group": case((6, 5), (3, 3), 2, 5, 7, pad=1),
    "4 * 4 weights a tap": case((6, 5), (3, 3), 4, 4, 6, pad=1),
    "4 * 4 weights a tap, strided": case((9, 8), (3, 3), 4, 4, 5, stride=2, pad=1),
    "1x1 strided": case((5, 4), (1, 1), 1, 1, 4, stride=2),
    "strided": case((9, 8), (3, 3), 1, 2, 4, stride=(2, 3), pad=1),
    "strided past the filter": case((11, 10), (2, 2), 2, 2, 3, stride=(3, 4)),
    "strided, last pixels unused": case((10, 9), (3, 3), 2, 2, 3, stride=4),
    "dilated": case((9, 8), (3, 3), 1, 2, 4, dilation=(2, 3), pad=2),
    "stride equals dilation": case((11, 9), (3, 3), 1, 1, 4, stride=2, dilation=2, pad=2),
    "stride divides dilation": case((11, 12), (3, 2), 1, 1, 4, stride=2, dilation=4, pad=3),
    "dilation divides stride": case((11, 12), (3, 2), 2, 2, 3, stride=4, dilation=2, pad=3),
    "stride and dilation share a factor": case((23, 17), (3, 2), 1, 1, 4, stride=6, dilation=4),
    "stride and dilation coprime": case((11, 12), (3, 4), 1, 2, 4, stride=3, dilation=2, pad=4),
    "uneven padding": case((5, 6), (3, 2), 2, 2, 3, stride=2, pad=((0, 3), (4, 1))),
    "cropped": case((8, 9), (3, 3), 1, 1, 4, stride=2, pad=((-2, 1), (3, -3))),
    "windows in the padding": case((3, 2), (2, 2), 1, 1, 4, stride=2, pad=((5, 6), (0, 9))),
    "nothing but padding": case((6, 7), (3, 2), 1, 1, 4, pad=((5, -8), (-7, 4))),
    "7x7, uneven padding": case((12, 10), (7, 7), 1, 1, 3, pad=((3, 1), (2, 3))),
    "large filter, cropped": case((21, 20), (9, 9), 1, 1, 3, stride=2, pad=((-3, 2), (1, -4))),
    "fewer pixels than taps": case((4, 3), (5, 6), 1, 1, 5, pad=((2, 3), (4, 1))),
    "eleven taps in a row": case((3, 14), (1, 11), 1, 1, 4, pad=((0, 0), (5, 5))),
    "one pixel": case((1, 1), (3, 3), 1, 1, 6, pad=1),
    "one pixel, strided": case((1, 1), (3, 3), 2, 2, 3, stride=2, pad=1),
    "one output": case((3, 4), (3, 4), 2, 2, 3),
    "one image": case((5, 4), (3, 3), 2, 2, 3, batch=1, pad=1),
    "1-D": case((17,), (5,), 1, 2, 4, stride=2, dilation=3, pad=4),
    "3-D": case((4, 5, 6), (2, 3, 2), 1, 2, 3, stride=(1, 2, 3), pad=1),
}
LOOPED_TAPS = {
    "many columns": case((3, 140), (3, 2), 1, 1, 2, batch=1, stride=(2, 1), pad=((1, 1), (0, 0))),
    "large filter, many columns": case((4, 150), (2, 131), 1, 2, 2, dilation=(2, 1), pad=1),
    "large filter": case((9, 12), (13, 11), 1, 1, 3, pad=6),
    "large filter, strided and dilated": case(
        (19, 21), (11, 13), 1, 2, 2, stride=(2, 3), dilation=(3, 2), pad=14
    ),
    "large filter, strided": case((17, 15), (15, 15), 1, 1, 3, stride=2, pad=7),
    "31x31, rows apart": case((9, 8), (31, 31), 1, 1, 2, batch=1, stride=2, dilation=4, pad=60),
    "31x31": case((6, 33), (31, 31), 1, 1, 2, batch=1, pad=15),
    "31x31, two channels": case((22, 23), (31, 31), 2, 1, 2, batch=1, pad=15),
    "1-D, long filter": case((90,), (131,), 1, 2, 2, stride=2, dilation=3, pad=((200, 170),)),
    "3-D, large filter": case((4, 5, 6), (7, 5, 6), 1, 1, 3, pad=3),
}
BLOCKS = {
    "one group": case((6, 5), (3, 3), 2, 3, 1, pad=1),
    "two groups": case((6, 5), (3, 3), 10, 14, 2, pad=1),
    "many channels per group": case((6, 5), (3, 3), 8, 8, 8, pad=1),
    "many channels in many groups": case((4, 3), (2, 2), 8, 8, 34, pad=1),
    "wide groups": case((6, 5), (3, 2), 18, 20, 2, pad=1),
    "wide groups, strided and dilated": case(
        (9, 12), (3, 2), 20, 18, 3, stride=(2, 3), dilation=(2, 1), pad=((1, 2), (0, 3))
    ),
    "wide groups, cropped": case((8, 9), (2, 3), 17, 17, 2, stride=2, pad=((-2, 1), (3, -3))),
    "wide groups, 3-D": case((5, 4, 6), (3, 3, 2), 17, 17, 2, stride=(1, 2, 1), pad=1),
    "wide groups, 1-D": case((17,), (5,), 18, 17, 2, stride=2, dilation=3, pad=4),
    "1x1, padded": case((5, 4), (1, 1), 8, 8, 3, pad=((1, 0), (-1, 2))),
    "nothing but padding, many channels": case((6, 7), (3, 2), 8, 8, 2, pad=((5, -8), (-7, 4))),
    "cropped, many channels": case((8, 9), (3, 3), 8, 8, 2, stride=2, pad=((-2, 1), (3, -3))),
    "1-D, many channels": case((17,), (5,), 8, 8, 2, stride=2, dilation=3, pad=4),
    "3-D, many channels": case((4, 5, 6), (2, 3, 2), 8, 8, 2, stride=(1, 2, 3), pad=1),
}
PRODUCTS = {
    "1x1": case((5, 4), (1, 1), 3, 4, 4),
    "1x1, many channels": case((7, 6), (1, 1), 24, 40, 3, batch=3),
    "1x1, one group": case((7, 6), (1, 1), 17, 18, 1, stride=(2, 3)),
    "1x1, two groups": case((5, 4), (1, 1), 8, 6, 2, stride=(2, 1)),
}
# Of these there is nothing to compute.
ZEROS = {
    "no image": case((5, 4), (3, 3), 2, 2, 3, batch=0, pad=1),
    "filter larger than the image": case((2, 9), (3, 3), 1, 1, 4, stride=2),
}
NATIVE = {
    "wide groups, large filter": case((9, 10), (11, 12), 17, 18, 2, stride=(1, 2), pad=6),
    "wide groups, 1-D, long filter": case((70,), (127,), 17, 17, 2, dilation=2, pad=((130, 129),)),
}
CASES = TAPS | LOOPED_TAPS | BLOCKS | PRODUCTS | ZEROS | NATIVE

# What the lowered program of a form holds of loops, convolutions and matrix products, and its
# cases; the kernels compute every case.
FORMS = {
    ("native", "kernels"): (set(), CASES),
    ("taps", "unrolled"): (set(), TAPS),
    ("taps", "looped"): ({"while"}, LOOPED_TAPS),
    ("blocks", "dense"): ({"convolution"}, BLOCKS),
    ("blocks", "products"): ({"dot_general"}, PRODUCTS),
    ("lax", "grouped"): (
        {"convolution"},
        ("depthwise", "cropped", "wide groups, strided and dilated", "1-D", "3-D, many channels"),
    ),
    (LANE_TILES, "merged"): (
        {"convolution"},
        (
            "depthwise",
            "uneven channels per group",
            "cropped, many channels",
            "many channels in many groups",
            "wide groups, strided and dilated",
            "1x1, many channels",
            "3-D",
        ),
    ),
}

# Sums of enough terms that their errors can be told apart.
LONG_SUMS = {
    "depthwise": case((24, 24), (5, 5), 1, 1, 16, batch=4, pad=2),
    "depthwise, large filter": case((24, 24), (13, 13), 1, 1, 4, pad=6),
    "few channels per group": case((20, 20), (3, 3), 2, 2, 8, batch=4, stride=2, pad=1),
    "many channels per group": case((14, 14), (3, 3), 16, 16, 4, batch=4, pad=1),
    "1x1": case((14, 14), (1, 1), 32, 32, 2, batch=4),
    "1x1, few products": case((7, 7), (1, 1), 80, 320, 3, batch=8),
    "wide groups, few products": case((7, 7), (3, 3), 24, 24, 4, batch=8, pad=1),
    "two groups": case((12, 12), (5, 5), 24, 32, 2, batch=4, pad=2),
    "two groups, strided": case((28, 28), (3, 3), 24, 24, 2, batch=8, stride=2, pad=1),
    "two groups, one image": case((40, 40), (3, 3), 24, 24, 2, batch=1, pad=1),
}


@functools.cache
def operands(case, dtype=np.float32):
    """What stands in each role's place, rounded to ``dtype``, by role."""
    random = np.random.default_rng(0)
    return {role: random.standard_normal(case.shape(role)).astype(dtype) for role in Role}


def expected(role, case, dtype=np.float32, magnitude=False):
    """The role in float64, or of the operands' magnitudes."""
    arrays = [operands(case, dtype)[operand].astype(np.float64) for operand in role.operands]
    arrays = [np.abs(array) for array in arrays] if magnitude else arrays
    return reference.compute(role, *arrays, case.convolution)


def roles(implementation, case):
    """The roles that an implementation can compute; ``None``, which chooses, computes all."""
    if implementation is None:
        return list(Role)
    module = REGISTRY["blocks" if implementation == LANE_TILES else implementation]
    widths = case.channels // case.groups, case.filters // case.groups
    return [role for role in Role if not module.unsupported(role, case.convolution, *widths)]


def compute(role, lhs, rhs, convolution, implementation=None):
    """One role as a CPU gets it, in the operands' dtype."""
    platform = "cpu"
    if implementation == LANE_TILES:
        implementation, platform = "blocks", "tpu"
    return _execution.compute(
        lhs,
        rhs,
        role=role,
        convolution=convolution,
        dtype=lhs.dtype,
        platform=platform,
        implementation=implementation,
    )


def lower_roles(implementation, case, dtype):
    """One program with every role that the implementation can compute, and its arguments."""
    arrays = operands(case, dtype)

    def compute_all(arrays):
        return {
            role: compute(
                role,
                *(arrays[operand] for operand in role.operands),
                case.convolution,
                implementation,
            )
            for role in roles(implementation, case)
        }

    arguments = {role: jnp.asarray(array) for role, array in arrays.items()}
    return jax.jit(compute_all).lower(arguments), arguments


def computed(implementation, case, dtype, compiler_options=None):
    lowered, arguments = lower_roles(implementation, case, dtype)
    results = lowered.compile(compiler_options)(arguments)
    return {role: np.asarray(result) for role, result in results.items()}
