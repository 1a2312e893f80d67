"""Convolutions to shard over eight devices, and what is made of them."""

import functools
import re

import jax
import numpy as np
import reference_roles
from jax.sharding import AxisType

from grouped_conv_jax import conv_general_dilated
from grouped_conv_jax.operation._description import Convolution, Role

COLLECTIVES = "all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter"
BOTH = ("data", "model")
MODES = (AxisType.Auto, AxisType.Explicit)


def make_mesh(mode):
    return jax.make_mesh((2, 4), BOTH, (mode, mode))


def collectives(compiled):
    """How many collectives of each kind a compiled program has."""
    found = re.findall(rf" ({COLLECTIVES})(?:-start)?\(", compiled.as_text())
    return {kind: found.count(kind) for kind in found}


def convolve(x, filters, convolution):
    """The forward pass through the public function, in canonical order."""
    digits = "".join(map(str, range(len(convolution.image))))
    return conv_general_dilated(
        x,
        filters,
        convolution.strides,
        convolution.padding,
        rhs_dilation=convolution.dilation,
        dimension_numbers=(f"N{digits}C", f"{digits}IO", f"N{digits}C"),
        feature_group_count=convolution.groups,
    )


def arrays(convolution, batch, channels, filters):
    """``x``, filters and the output's cotangent, in the order of their roles."""
    random = np.random.default_rng(0)
    kernel = *convolution.filter_size, channels, filters * convolution.groups
    shapes = {
        Role.INPUT_GRADIENT: (batch, *convolution.image, channels * convolution.groups),
        Role.FILTER_GRADIENT: kernel,
        Role.FORWARD: (batch, *convolution.outputs, kernel[-1]),
    }
    return {
        role: random.standard_normal(shape).astype(np.float32) for role, shape in shapes.items()
    }


def compute(role, convolution):
    """Computes one role; of the other two nothing is left."""

    def function(x, filters, cotangent):
        y, pull = jax.vjp(functools.partial(convolve, convolution=convolution), x, filters)
        return (*pull(cotangent), y)[role]

    return jax.jit(function)


def expected(role, convolution, values):
    """What NumPy makes of it in float64."""
    operands = [values[operand] for operand in role.operands]
    return getattr(reference_roles, role.name.lower())(*operands, convolution)


def assert_close(actual, desired):
    np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5 * np.abs(desired).max())


def same(filter_size=(3, 3), strides=(1, 1), dilation=(1, 1), image=(16, 4), groups=8):
    """A convolution with as many outputs as pixels, over the stride."""
    sides = []
    for k, s, d in zip(filter_size, strides, dilation, strict=True):
        total = (k - 1) * d + 1 - s
        sides.append((total // 2, total - total // 2))
    return Convolution(image, filter_size, groups, strides, tuple(sides), dilation)


# The description, channels and filters per group, and how many neighbours a shard of rows needs.
CASES = {
    "depthwise": (same(), 1, 1, 2),
    "strided": (same(strides=(2, 1)), 1, 1, 1),
    "dilated": (same(dilation=(2, 1)), 1, 1, 2),
    "many channels and filters": (same(), 8, 8, 2),
    "two filters a channel": (same(), 1, 2, 2),
}
