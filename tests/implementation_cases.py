"""Convolutions that every implementation is tried on, and what NumPy makes of them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_roles

from grouped_conv_jax import _choice, _execution
from grouped_conv_jax._convolution import Convolution, Role

IMPLEMENTATIONS = tuple(_choice._MODULES)


def case(image, filter_size, channels, filters, groups, *, batch=2, stride=1, dilation=1, pad=0):
    """The shapes of ``x`` and the filters, and the description; numbers stand for every axis."""
    rank = len(image)

    def every_axis(value):
        return value if isinstance(value, tuple) else (value,) * rank

    padding = pad if isinstance(pad, tuple) else ((pad, pad),) * rank
    convolution = Convolution(
        image, filter_size, groups, every_axis(stride), padding, every_axis(dilation)
    )
    x_shape = (batch, *image, groups * channels)
    return x_shape, (*filter_size, channels, groups * filters), convolution


CASES = {
    "depthwise": case((7, 6), (3, 2), 1, 1, 5, pad=1),
    "depthwise with multiplier": case((6, 7), (2, 3), 1, 3, 4, pad=1),
    "channels summed into one filter": case((6, 5), (3, 3), 3, 1, 4, pad=1),
    "few channels per group": case((6, 5), (3, 3), 2, 2, 6, pad=1),
    "uneven channels per group": case((6, 5), (3, 3), 2, 5, 7, pad=1),
    "4 * 4 weights a tap": case((6, 5), (3, 3), 4, 4, 6, pad=1),
    "4 * 4 weights a tap, strided": case((9, 8), (3, 3), 4, 4, 5, stride=2, pad=1),
    "many channels per group": case((6, 5), (3, 3), 8, 8, 8, pad=1),
    "many channels in many groups": case((4, 3), (2, 2), 8, 8, 132, pad=1),
    "two groups": case((6, 5), (3, 3), 10, 14, 2, pad=1),
    "wide groups": case((6, 5), (3, 2), 18, 20, 2, pad=1),
    "wide groups, strided and dilated": case(
        (9, 12), (3, 2), 20, 18, 3, stride=(2, 3), dilation=(2, 1), pad=((1, 2), (0, 3))
    ),
    "wide groups, cropped": case((8, 9), (2, 3), 17, 17, 2, stride=2, pad=((-2, 1), (3, -3))),
    "wide groups, nothing but padding": case((6, 7), (3, 2), 17, 17, 2, pad=((5, -8), (-7, 4))),
    "wide groups, a few images at a time": case((28, 28), (3, 3), 32, 32, 2, batch=8, pad=1),
    "filters as lanes": case((16, 15), (3, 3), 8, 16, 18, batch=8, pad=1),
    "filters as lanes, uneven, cropped": case(
        (19, 18), (3, 4), 16, 8, 16, batch=8, pad=((2, 0), (-1, 3))
    ),
    "filters as lanes, strided and dilated": case(
        (33, 47), (3, 3), 8, 16, 4, batch=8, stride=(1, 2), dilation=(2, 3), pad=((2, 1), (0, 3))
    ),
    "filters as lanes, a few images at a time": case(
        (96, 64), (3, 3), 8, 8, 7, batch=7, stride=2, pad=1
    ),
    "filters as lanes, 1-D": case((260,), (5,), 8, 8, 17, batch=8, pad=2),
    "filters as lanes, 3-D": case((8, 7, 6), (2, 3, 2), 8, 8, 16, batch=8, pad=1),
    "wide groups, large filter": case((9, 10), (11, 12), 17, 18, 2, stride=(1, 2), pad=6),
    "many channels, large filter": case((9, 10), (7, 6), 8, 8, 4, pad=3),
    "wide groups, one row of taps": case((8, 7), (1, 3), 17, 17, 2, stride=(2, 1), pad=2),
    "wide groups, 13 rows of taps": case(
        (12, 9), (13, 2), 17, 18, 2, dilation=(2, 1), pad=((13, 12), (-1, 1))
    ),
    "wide groups, 1-D, long filter": case((70,), (127,), 17, 17, 2, dilation=2, pad=((130, 129),)),
    "wide groups, 1-D, strided long filter": case(
        (140,), (131,), 17, 17, 2, batch=3, stride=2, pad=((66, 65),)
    ),
    "wide groups, 3-D": case((5, 4, 6), (3, 3, 2), 17, 17, 2, stride=(1, 2, 1), pad=1),
    "wide groups, 1-D": case((17,), (5,), 18, 17, 2, stride=2, dilation=3, pad=4),
    "one group": case((6, 5), (3, 3), 2, 3, 1, pad=1),
    "1x1": case((5, 4), (1, 1), 3, 4, 4),
    "1x1, two groups": case((5, 4), (1, 1), 8, 6, 2, stride=(2, 1)),
    "1x1, sums over channels": case((13, 12), (1, 1), 24, 40, 3, batch=8),
    "1x1, sums over channels, strided": case((27, 25), (1, 1), 16, 24, 4, batch=8, stride=(2, 1)),
    "1x1, sums over channels, wide": case((5, 4), (1, 1), 24, 32, 32, batch=8),
    "1x1, sums over channels, 1-D": case((1501,), (1,), 8, 16, 7, batch=2, stride=2),
    "1x1, sums over channels, one group": case((45, 37), (1, 1), 32, 32, 1, batch=8),
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
    "cropped, many channels": case((8, 9), (3, 3), 8, 8, 2, stride=2, pad=((-2, 1), (3, -3))),
    "windows in the padding": case((3, 2), (2, 2), 1, 1, 4, stride=2, pad=((5, 6), (0, 9))),
    "nothing but padding": case((6, 7), (3, 2), 1, 1, 4, pad=((5, -8), (-7, 4))),
    "nothing but padding, many channels": case((6, 7), (3, 2), 8, 8, 2, pad=((5, -8), (-7, 4))),
    "large filter": case((9, 12), (13, 11), 1, 1, 3, pad=6),
    "large filter, strided and dilated": case(
        (19, 21), (11, 13), 1, 2, 2, stride=(2, 3), dilation=(3, 2), pad=14
    ),
    "large filter, strided": case((17, 15), (15, 15), 1, 1, 3, stride=2, pad=7),
    "large filter, dilated": case(
        (23, 26), (9, 9), 1, 1, 3, dilation=(2, 3), pad=((8, 5), (9, 14))
    ),
    "large filter, rows dilated, columns strided": case(
        (23, 24), (9, 10), 1, 2, 3, stride=(1, 3), dilation=(2, 1), pad=5
    ),
    "large filter, rows strided, columns dilated": case(
        (23, 24), (9, 8), 2, 1, 3, stride=(3, 1), dilation=(1, 2), pad=6
    ),
    "large filter, few channels": case((12, 13), (7, 5), 2, 2, 3, stride=2, pad=((2, 3), (4, 1))),
    "7x7, uneven padding": case((12, 10), (7, 7), 1, 1, 3, pad=((3, 1), (2, 3))),
    "7x7, uneven padding, strided": case((13, 11), (7, 8), 1, 2, 2, stride=2, pad=((1, 6), (5, 0))),
    "large filter, cropped": case((21, 20), (9, 9), 1, 1, 3, stride=2, pad=((-3, 2), (1, -4))),
    "large filter, stride past it": case((45, 31), (9, 8), 1, 1, 2, stride=(10, 9), pad=1),
    "large filter, few columns": case((30, 9), (9, 9), 1, 1, 3, batch=1, stride=(1, 2), pad=1),
    "3-D, large filter, many pixels": case((7, 8, 9), (4, 5, 6), 1, 2, 2, stride=(2, 1, 2), pad=2),
    "fewer pixels than taps": case((4, 3), (5, 6), 1, 1, 5, pad=((2, 3), (4, 1))),
    "fewer pixels than taps, multiplier": case((3, 4), (5, 5), 1, 3, 2, pad=((2, 2), (0, 3))),
    "fewer pixels than taps, channels": case((3, 3), (4, 4), 2, 2, 3, pad=((1, 5), (7, 0))),
    "fewer pixels than taps, many": case((12, 13), (13, 14), 1, 1, 3, pad=6),
    "fewer pixels than taps, of 4 KB": case((5, 6), (6, 6), 1, 1, 512, batch=1, pad=3),
    "fewer pixels than taps, cropped": case((6, 7), (5, 9), 1, 1, 3, pad=((-1, 2), (5, -2))),
    "more rows than are added at once": case((33, 5), (3, 3), 1, 1, 3, batch=3, pad=1),
    "many rows, few columns": case((100, 3), (3, 3), 1, 1, 3, stride=(1, 2), pad=1),
    "many rows of large filters": case((31, 8), (7, 6), 1, 1, 3, pad=3),
    "slabs of rows": case((140, 3), (7, 6), 1, 1, 3, batch=1, pad=3),
    "slabs of rows, strided and dilated": case(
        (279, 4), (7, 6), 1, 2, 2, batch=1, stride=(2, 1), dilation=(3, 1), pad=((9, 9), (2, 3))
    ),
    "slabs of rows, the last of which is smaller": case((139, 3), (7, 6), 1, 1, 3, batch=1, pad=3),
    "very many rows": case((300, 3), (3, 3), 1, 1, 3, batch=1, pad=1),
    "few taps, tiles of a row": case((3, 37), (3, 3), 1, 1, 4, pad=1),
    "few taps, tiles of a row, strided and dilated": case(
        (7, 63), (3, 2), 1, 2, 3, stride=(1, 2), dilation=(2, 3), pad=((1, 2), (3, 0))
    ),
    "few taps, tiles of rows": case((9, 4), (3, 2), 1, 1, 3, pad=1),
    "few taps, blocks of lanes": case((5, 6), (3, 3), 1, 1, 192, stride=(2, 1), pad=1),
    "few taps, lanes that no block divides": case((4, 5), (2, 3), 1, 1, 131, pad=1),
    "eleven taps in a row": case((3, 14), (1, 11), 1, 1, 4, pad=((0, 0), (5, 5))),
    "eleven taps in a column": case((14, 3), (11, 1), 1, 2, 4, pad=((5, 5), (0, 0))),
    "strips": case((24, 23), (7, 7), 1, 1, 96, batch=5, pad=3),
    "strips, cropped and dilated": case(
        (34, 30), (6, 7), 1, 1, 64, batch=8, dilation=(2, 3), pad=((5, -2), (-1, 9))
    ),
    "strips, strided": case(
        (41, 53), (9, 8), 1, 1, 56, batch=9, stride=(2, 3), pad=((4, 3), (2, 4))
    ),
    "strips, a loop over parts": case((21, 20), (21, 21), 1, 1, 72, batch=1, pad=10),
    "strips, no outputs": case((6, 60), (7, 7), 1, 1, 128, batch=8),
    "strips, 1-D": case((500,), (51,), 1, 1, 64, batch=8, pad=25),
    "15x15, rows apart": case((9, 8), (15, 15), 1, 1, 2, batch=1, stride=2, dilation=4, pad=28),
    "31x31, rows apart": case((9, 8), (31, 31), 1, 1, 2, batch=1, stride=2, dilation=4, pad=60),
    "31x31, uneven rows": case((9, 8), (31, 31), 1, 1, 2, batch=1, stride=2, dilation=3, pad=45),
    "31x31": case((6, 33), (31, 31), 1, 1, 2, batch=1, pad=15),
    "31x31, two channels": case((22, 23), (31, 31), 2, 1, 2, batch=1, pad=15),
    "31x31, many channels": case((6, 33), (31, 31), 5, 5, 2, batch=1, pad=15),
    "29x29, many rows": case((27, 5), (29, 29), 1, 1, 2, batch=1, stride=(1, 2), pad=14),
    "29x29, many rows, strided and dilated": case(
        (55, 6),
        (29, 27),
        1,
        2,
        1,
        batch=1,
        stride=(2, 1),
        dilation=(1, 2),
        pad=((14, 13), (26, 26)),
    ),
    "pixels in strips": case((7, 8), (9, 10), 1, 1, 64, batch=8, pad=((4, 4), (5, 4))),
    "pixels in strips, uneven": case((7, 8), (9, 14), 1, 1, 48, batch=8, pad=((9, 2), (-1, 14))),
    "pixels in strips, 1-D": case((60,), (131,), 1, 1, 48, batch=8, pad=((65, 62),)),
    "pixels in strips, a loop over rows": case(
        (17, 16), (18, 17), 1, 1, 16, batch=8, pad=((9, 8), (7, 9))
    ),
    "one row of many pixels": case((1, 290), (1, 301), 1, 1, 8, batch=8, pad=((0, 0), (150, 150))),
    "one pixel": case((1, 1), (3, 3), 1, 1, 6, pad=1),
    "one pixel, strided": case((1, 1), (3, 3), 2, 2, 3, stride=2, pad=1),
    "one output": case((3, 4), (3, 4), 2, 2, 3),
    "one image": case((5, 4), (3, 3), 2, 2, 3, batch=1, pad=1),
    "no image": case((5, 4), (3, 3), 2, 2, 3, batch=0, pad=1),
    "filter larger than the image": case((2, 9), (3, 3), 1, 1, 4, stride=2),
    "1-D": case((17,), (5,), 1, 2, 4, stride=2, dilation=3, pad=4),
    "1-D, long filter": case((90,), (131,), 1, 2, 2, stride=2, dilation=3, pad=((200, 170),)),
    "1-D, many channels": case((17,), (5,), 8, 8, 2, stride=2, dilation=3, pad=4),
    "3-D": case((4, 5, 6), (2, 3, 2), 1, 2, 3, stride=(1, 2, 3), pad=1),
    "3-D, many channels": case((4, 5, 6), (2, 3, 2), 8, 8, 2, stride=(1, 2, 3), pad=1),
    "3-D, large filter": case((4, 5, 6), (7, 5, 6), 1, 1, 3, pad=3),
}
# Sums of enough terms that their errors can be told apart.
LONG_SUMS = {
    "depthwise": case((24, 24), (5, 5), 1, 1, 16, batch=4, pad=2),
    "depthwise, large filter": case((24, 24), (13, 13), 1, 1, 4, pad=6),
    "depthwise, strips": case((24, 24), (11, 11), 1, 1, 64, batch=4, pad=5),
    "depthwise, pixels in strips": case((14, 14), (27, 27), 1, 1, 32, batch=4, pad=13),
    "depthwise, outputs in strips": case((14, 14), (15, 15), 1, 1, 64, batch=8, pad=7),
    "depthwise, 27x27": case((32, 32), (27, 27), 1, 1, 4, pad=13),
    "few channels per group": case((20, 20), (3, 3), 2, 2, 8, batch=4, stride=2, pad=1),
    "many channels per group": case((14, 14), (3, 3), 16, 16, 4, batch=4, pad=1),
    "filters as lanes": case((14, 14), (3, 3), 16, 16, 32, batch=4, pad=1),
    "1x1": case((14, 14), (1, 1), 32, 32, 2, batch=4),
    "1x1, sums over channels": case((14, 14), (1, 1), 64, 64, 4, batch=4),
    "1x1, few products": case((7, 7), (1, 1), 80, 320, 3, batch=8),
    "wide groups, few products": case((7, 7), (3, 3), 24, 24, 4, batch=8, pad=1),
    "two groups": case((12, 12), (5, 5), 24, 32, 2, batch=4, pad=2),
    "two groups, strided": case((28, 28), (3, 3), 24, 24, 2, batch=8, stride=2, pad=1),
    "two groups, one image": case((40, 40), (3, 3), 24, 24, 2, batch=1, pad=1),
}


@functools.cache
def operands(shapes, dtype):
    """What stands in each role's place, rounded to ``dtype``, by role."""
    x_shape, filter_shape, convolution = shapes
    outputs = convolution.shape(Role.FORWARD, x_shape, filter_shape)
    random = np.random.default_rng(0)
    return {
        Role.INPUT_GRADIENT: random.standard_normal(x_shape).astype(dtype),
        Role.FILTER_GRADIENT: random.standard_normal(filter_shape).astype(dtype),
        Role.FORWARD: random.standard_normal(outputs).astype(dtype),
    }


def expected(role, shapes, dtype, magnitude=False):
    """The role in float64, or of the operands' magnitudes."""
    arrays = [operands(shapes, dtype)[operand].astype(np.float64) for operand in role.operands]
    arrays = [np.abs(array) for array in arrays] if magnitude else arrays
    return getattr(reference_roles, role.name.lower())(*arrays, shapes[-1])


def roles(implementation, shapes):
    """The roles that an implementation can compute; ``None``, which chooses, computes all."""
    if implementation is None:
        return list(Role)
    _, filter_shape, convolution = shapes
    channels, filters = filter_shape[-2], filter_shape[-1] // convolution.groups
    module = _choice._MODULES[implementation]
    return [role for role in Role if not module.unsupported(role, convolution, channels, filters)]


def supported(cases):
    """Parameters for each implementation and each case of which it can compute a role."""
    return [
        pytest.param(implementation, shapes, id=f"{implementation}-{name}")
        for implementation, (name, shapes) in itertools.product(IMPLEMENTATIONS, cases.items())
        if roles(implementation, shapes)
    ]


def compute(role, lhs, rhs, convolution, implementation=None):
    """One role as a CPU gets it, in the operands' dtype."""
    return _execution.compute(
        lhs,
        rhs,
        role=role,
        convolution=convolution,
        dtype=lhs.dtype,
        platform="cpu",
        implementation=implementation,
    )


def compile_roles(implementation, shapes, dtype, compiler_options=None):
    """One program with every role that the implementation can compute, and its arguments."""
    arrays = operands(shapes, dtype)

    def compute_all(arrays):
        return {
            role: compute(
                role, *(arrays[operand] for operand in role.operands), shapes[-1], implementation
            )
            for role in roles(implementation, shapes)
        }

    arguments = {role: jnp.asarray(array) for role, array in arrays.items()}
    return jax.jit(compute_all).lower(arguments).compile(compiler_options), arguments


def computed(implementation, shapes, dtype, compiler_options=None):
    program, arguments = compile_roles(implementation, shapes, dtype, compiler_options)
    return {role: np.asarray(result) for role, result in program(arguments).items()}
