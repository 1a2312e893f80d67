"""Reference for the three roles of a grouped convolution, in NumPy and float64.

Tests and benchmarks share it, and it shares no code with what it checks; lax takes seconds for some
filter gradients in float64. Each tap meets only pixels inside the image: padding is never
multiplied, so an infinity or a NaN reaches only the numbers that depend on it.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grouped_conv_jax.operation._description import Convolution, Role

Array = NDArray[np.float64]
Window = tuple[slice, ...]


def compute(role: Role, lhs: Any, rhs: Any, convolution: Convolution) -> Array:
    """Computes ``role`` from its operands, in canonical order."""
    operands = [np.asarray(operand, np.float64) for operand in (lhs, rhs)]
    arrays = dict(zip(role.operands, operands, strict=True))
    arrays[role] = np.zeros(convolution.shape(role, *(array.shape for array in operands)))
    # NumPy releases the GIL, so the groups run in parallel.
    with ThreadPoolExecutor() as pool:
        groups = range(convolution.groups)
        list(pool.map(lambda group: _compute_group(role, arrays, convolution, group), groups))
    return arrays[role]


def _compute_group(
    role: Role, arrays: dict[Role, Array], convolution: Convolution, group: int
) -> None:
    """Fills in the part of ``arrays[role]`` that belongs to one group."""
    widths = {each: arrays[each].shape[-1] // convolution.groups for each in Role}
    own = {each: slice(group * width, (group + 1) * width) for each, width in widths.items()}
    x, filters, y = (np.ascontiguousarray(arrays[each][..., own[each]]) for each in Role)
    for tap in itertools.product(*map(range, convolution.filter_size)):
        pixels, outputs = _window(convolution, tap)
        if role == Role.FORWARD:
            y[outputs] += _product(x[pixels], filters[tap])
        elif role == Role.INPUT_GRADIENT:
            x[pixels] += _product(y[outputs], filters[tap].T)
        else:
            rows = x[pixels].reshape(-1, x.shape[-1])
            filters[tap] = rows.T @ y[outputs].reshape(-1, y.shape[-1])
    arrays[role][..., own[role]] = (x, filters, y)[role]


def _window(convolution: Convolution, tap: tuple[int, ...]) -> tuple[Window, Window]:
    """The pixels of the image that one tap meets, and the outputs in which it meets them."""
    pixels, outputs = [slice(None)], [slice(None)]
    for index, dilation, stride, (before, _), size, most in zip(
        tap,
        convolution.dilation,
        convolution.strides,
        convolution.padding,
        convolution.image,
        convolution.outputs,
        strict=True,
    ):
        # Output o meets pixel o * stride + offset.
        offset = index * dilation - before
        first = max(-(offset // stride), 0)
        end = max(min((size - 1 - offset) // stride + 1, most), first)
        outputs.append(slice(first, end))
        start = first * stride + offset
        pixels.append(slice(start, start + (end - first - 1) * stride + 1, stride))
        if first == end:
            pixels[-1] = slice(0)
    return tuple(pixels), tuple(outputs)


def _product(pixels: Array, matrix: Array) -> Array:
    """Multiplies over the channels; a single channel needs only a faster elementwise product."""
    return pixels * matrix[0] if len(matrix) == 1 else pixels @ matrix
