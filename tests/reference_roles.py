"""The three roles of a grouped convolution in NumPy and float64, for any number of axes.

Canonical order, group-major: ``x`` ``(B, *image, G*C)``, filters ``(*filter, C, G*F)``, ``y``
``(B, *outputs, G*F)``. Of the package's description only the numbers that were put in are used.
"""

import numpy as np


def forward(x, filters, convolution):
    """``y`` from ``x`` and filters."""
    x, filters = _by_group(x, convolution), _by_group(filters, convolution)
    framed, view = _frame(x.shape[0], x.shape[-1], convolution)
    framed[_inside(convolution)] = x
    y = np.zeros((x.shape[0], *_outputs(convolution), *filters.shape[-2:]))
    for tap, window in _windows(convolution):
        y += np.einsum("...gc,cgf->...gf", view[window], filters[tap])
    return _joined(y)


def input_gradient(filters, y, convolution):
    """``x`` from filters and ``y``: each output spreads over the pixels it was made from."""
    filters, y = _by_group(filters, convolution), _by_group(y, convolution)
    framed, view = _frame(y.shape[0], filters.shape[-3], convolution)
    for tap, window in _windows(convolution):
        view[window] += np.einsum("...gf,cgf->...gc", y, filters[tap])
    return _joined(framed[_inside(convolution)])


def filter_gradient(x, y, convolution):
    """Filters from ``x`` and ``y``."""
    x, y = _by_group(x, convolution), _by_group(y, convolution)
    framed, view = _frame(x.shape[0], x.shape[-1], convolution)
    framed[_inside(convolution)] = x
    filters = np.zeros((*convolution.filter_size, x.shape[-1], *y.shape[-2:]))
    for tap, window in _windows(convolution):
        products = np.einsum("...gc,...gf->...cgf", view[window], y)
        filters[tap] = products.sum(tuple(range(products.ndim - 3)))
    return _joined(filters)


def _by_group(array, convolution):
    """``(..., G*N)`` to ``(..., G, N)`` in float64."""
    array = np.asarray(array, np.float64)
    groups = convolution.groups
    return array.reshape(*array.shape[:-1], groups, array.shape[-1] // groups)


def _joined(array):
    return array.reshape(*array.shape[:-2], array.shape[-2] * array.shape[-1])


def _frame(batch, channels, convolution):
    """Zeros with room for the image and all padding, and the part of them that is convolved."""
    sizes = [
        max(before, 0) + size + max(after, 0)
        for size, (before, after) in zip(convolution.image, convolution.padding, strict=True)
    ]
    framed = np.zeros((batch, *sizes, convolution.groups, channels))
    view = tuple(
        slice(max(-before, 0), size - max(-after, 0))
        for size, (before, after) in zip(sizes, convolution.padding, strict=True)
    )
    return framed, framed[(slice(None), *view)]


def _inside(convolution):
    """Where the image lies in the frame."""
    starts = [max(before, 0) for before, _ in convolution.padding]
    return slice(None), *(
        slice(start, start + size) for start, size in zip(starts, convolution.image, strict=True)
    )


def _outputs(convolution):
    return tuple(
        max((size + before + after - (k - 1) * d - 1) // s + 1, 0)
        for size, (before, after), k, d, s in zip(
            convolution.image,
            convolution.padding,
            convolution.filter_size,
            convolution.dilation,
            convolution.strides,
            strict=True,
        )
    )


def _windows(convolution):
    """Each tap with the pixels that it meets."""
    outputs = _outputs(convolution)
    for tap in np.ndindex(*convolution.filter_size):
        starts = [i * d for i, d in zip(tap, convolution.dilation, strict=True)]
        yield (
            tap,
            (
                slice(None),
                *(
                    slice(start, start + (n - 1) * s + 1, s) if n else slice(0)
                    for start, n, s in zip(starts, outputs, convolution.strides, strict=True)
                ),
            ),
        )
