"""Convolutions to shard over eight devices, and what is made of them."""

import dataclasses
import functools
import re

import jax
import numpy as np
from implementation_cases import case, operands
from jax.sharding import AxisType, NamedSharding

from grouped_conv_jax import conv_general_dilated

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


def place(case, mesh, specs):
    """``x``, filters and the output's cotangent on the mesh, in the order of their roles."""
    arrays = operands(case).values()
    return [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip(arrays, specs, strict=True)
    ]


def compute(role, convolution):
    """Computes one role; of the other two nothing is left."""

    def function(x, filters, cotangent):
        y, pull = jax.vjp(functools.partial(convolve, convolution=convolution), x, filters)
        return (*pull(cotangent), y)[role]

    return jax.jit(function)


def assert_close(actual, desired):
    np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5 * np.abs(desired).max())


def same(channels=1, filters=1, *, filter_size=(3, 3), batch=8, image=(16, 4), **others):
    """A case of eight groups with as many outputs as pixels, over the stride."""
    sizes = case(image, filter_size, channels, filters, 8, batch=batch, **others)
    sides = []
    for k, s, d in zip(sizes.filter_size, sizes.stride, sizes.dilation, strict=True):
        total = (k - 1) * d + 1 - s
        sides.append((total // 2, total - total // 2))
    return dataclasses.replace(sizes, padding=tuple(sides))


# And how many neighbours a shard of rows needs.
CASES = {
    "depthwise": (same(), 2),
    "strided": (same(stride=(2, 1)), 1),
    "dilated": (same(dilation=(2, 1)), 2),
    "many channels and filters": (same(8, 8), 2),
    "two filters a channel": (same(1, 2), 2),
}
