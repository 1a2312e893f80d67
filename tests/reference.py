"""Grouped convolution as a loop over output pixels in float64, sharing nothing with the package."""

import numpy as np

NUMPY_MODES = {
    "symmetric-include-edge": "symmetric",
    "symmetric-exclude-edge": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


def same_padding(size, filter_size, stride, dilation):
    """(before, after) of ``"same"`` along one axis."""
    outputs = int(np.ceil(size / stride))
    total = max((outputs - 1) * stride + (filter_size - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def pad(images, sides, padding_value):
    """Pads the spatial axes of ``(..., *image, C)`` by ``(before, after)`` each."""
    widths = [(0, 0)] * (images.ndim - len(sides) - 1) + [*sides, (0, 0)]
    if isinstance(padding_value, str):
        return np.pad(images, widths, mode=NUMPY_MODES[padding_value])
    return np.pad(images, widths, constant_values=padding_value)


def convolve(images, weights, bias, stride, dilation):
    """Convolves padded images ``(..., *image, G*C)`` to ``(..., *outputs, G*F)``."""
    *size, channels, filters, groups = weights.shape
    batch, image = images.shape[: -1 - len(size)], images.shape[-1 - len(size) : -1]
    extent = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    outputs = [(n - e) // s + 1 for n, e, s in zip(image, extent, stride, strict=True)]
    y = np.zeros((*batch, *outputs, groups, filters))
    for place in np.ndindex(*outputs):
        window = (
            slice(p * s, p * s + e, d)
            for p, s, e, d in zip(place, stride, extent, dilation, strict=True)
        )
        pixels = images[(..., *window, slice(None))].reshape(*batch, *size, groups, channels)
        axes = [..., *range(len(size)), 10, 11]
        y[(..., *place, slice(None), slice(None))] = np.einsum(
            pixels, axes, weights, [*range(len(size)), 11, 12, 10], [..., 10, 12]
        )
    return (y + np.swapaxes(bias, -1, -2).reshape(groups, filters)).reshape(
        *batch, *outputs, groups * filters
    )


def grouped_conv(
    x,
    weights,
    bias=None,
    *,
    stride=None,
    dilation=None,
    sides=None,
    padding_value=0,
    data_format=None,
):
    """Pads and convolves ``x`` in any data format; every argument in its longest form."""
    x, weights = np.asarray(x, np.float64), np.asarray(weights, np.float64)
    rank = weights.ndim - 3
    bias = np.zeros(weights.shape[-2:]) if bias is None else np.asarray(bias, np.float64)
    data_format = data_format or "B" + "S" * rank + "C"
    leading = x.ndim - len(data_format)
    axes = [leading + i for i, letter in enumerate(data_format) if letter == "S"]
    axes.append(leading + data_format.index("C"))
    last = range(-1 - rank, 0)
    images = pad(np.moveaxis(x, axes, last), sides or ((0, 0),) * rank, padding_value)
    y = convolve(images, weights, bias, stride or (1,) * rank, dilation or (1,) * rank)
    return np.moveaxis(y, last, axes)
