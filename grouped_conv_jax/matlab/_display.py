"""Formats values the way MATLAB displays them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def format_value(value: Any) -> str:
    """Formats a property value for the display of an object."""
    if value is None:
        return "[]"
    if isinstance(value, str):
        return f"'{value}'"
    if callable(value):
        return f"@{getattr(value, '__name__', type(value).__name__)}"
    if isinstance(value, tuple | list):
        if value and all(isinstance(entry, str) for entry in value):
            return "{" + " ".join(map(format_value, value)) + "}"
        return f"[{' '.join(map(format_value, value))}]"
    if hasattr(value, "shape"):
        classes = {"float64": "double", "float32": "single", "float16": "half"}
        name = "categorical" if value.dtype.kind in "OSTU" else value.dtype.name
        return f"[{format_size(value.shape)} {classes.get(name, name)}]"
    return format_number(value)


def format_number(value: float) -> str:
    """Formats a number in MATLAB's ``format short``.

    Example:
        >>> format_number(0.01), format_number(1e-4), format_number(3), format_number(float("inf"))
        ('0.0100', '1.0000e-04', '3', 'Inf')
    """
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    if float(value).is_integer():
        return str(int(value))
    # MATLAB switches to an exponent at 0.001 itself.
    return f"{value:.4f}" if 0.001 < abs(value) < 1000 else f"{value:.4e}"


def format_size(shape: tuple[int, ...]) -> str:
    """Formats a size such as ``3x3x2x4``, without the trailing ones that MATLAB drops."""
    sizes = [*shape, *(1,) * (2 - len(shape))]
    while sizes[-1] == 1 and len(sizes) > 2:
        sizes.pop()
    return "x".join(map(str, sizes))


def format_table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Returns rows as lines of left-aligned columns, three spaces apart."""
    widths = np.max([[len(cell) for cell in row] for row in rows], axis=0)
    return [
        "   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
