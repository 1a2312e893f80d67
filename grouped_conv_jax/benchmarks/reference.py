"""Reference for grouped convolutions: a NumPy loop over groups and filter taps, in float64.

It shares no code with the implementations that it checks, and is faster than lax, which takes
seconds for some filter gradients in float64.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from grouped_conv_jax.benchmarks.cases import Case
from grouped_conv_jax.operation._description import Role

Array = NDArray[np.float64]


def compute(case: Case, role: Role, lhs: Array, rhs: Array) -> Array:
    """Computes ``role`` from its operands, in canonical order."""
    operands = dict(zip(role.operands, (lhs, rhs), strict=True))
    operands[role] = np.empty(case.shape(role))
    # NumPy releases the GIL, so the groups run in parallel.
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda g: _compute_group(case, role, operands, g), range(case.groups)))
    return operands[role]


def _compute_group(case: Case, role: Role, operands: dict[Role, Array], group: int) -> None:
    """Computes the part of ``operands[role]`` that belongs to one group."""
    width, height = case.channels // case.groups, case.filters // case.groups
    inputs = slice(group * width, (group + 1) * width)
    outputs = slice(group * height, (group + 1) * height)
    filters = operands[Role.FILTER_GRADIENT][..., outputs]
    inner = tuple(
        slice(before, before + size)
        for (before, _), size in zip(case.padding, case.image, strict=True)
    )
    padded = np.zeros((case.batch, *case.convolution.padded, width))
    if role != Role.INPUT_GRADIENT:
        padded[:, *inner] = operands[Role.INPUT_GRADIENT][..., inputs]
    y = np.zeros((case.batch, *case.convolution.outputs, height))
    if role != Role.FORWARD:
        y[:] = operands[Role.FORWARD][..., outputs]

    for tap in itertools.product(*map(range, case.filter_size)):
        window = _window(case, tap)
        if role == Role.FORWARD:
            y += _product(padded[:, *window], filters[tap])
        elif role == Role.INPUT_GRADIENT:
            padded[:, *window] += _product(y, filters[tap].T)
        else:
            rows = padded[:, *window].reshape(-1, width)
            filters[tap] = rows.T @ y.reshape(-1, height)

    if role == Role.FORWARD:
        operands[role][..., outputs] = y
    elif role == Role.INPUT_GRADIENT:
        operands[role][..., inputs] = padded[:, *inner]


def _window(case: Case, tap: tuple[int, ...]) -> tuple[slice, ...]:
    """Returns the slices of the padded image that one filter tap reads."""
    axes = zip(tap, case.dilation, case.stride, case.convolution.outputs, strict=True)
    return tuple(slice(i * d, i * d + (n - 1) * s + 1, s) for i, d, s, n in axes)


def _product(pixels: Array, matrix: Array) -> Array:
    """Multiplies over the channels; a single channel needs only a faster elementwise product."""
    return pixels * matrix[0] if len(matrix) == 1 else pixels @ matrix
