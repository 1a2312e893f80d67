"""Grouped convolution as a loop in float64, sharing nothing with the package."""

import numpy as np

NUMPY_MODES = {
    "symmetric-include-edge": "symmetric",
    "symmetric-exclude-edge": "reflect",
    "replicate": "edge",
}


def same_padding(size, filter_size, stride, dilation):
    """(before, after) of ``"same"`` along one axis."""
    outputs = int(np.ceil(size / stride))
    total = max((outputs - 1) * stride + (filter_size - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def pad(images, sides, padding_value):
    """Pads ``(..., H, W, C)`` by ``((top, bottom), (left, right))``."""
    widths = [(0, 0)] * (images.ndim - 3) + [*sides, (0, 0)]
    if isinstance(padding_value, str):
        return np.pad(images, widths, mode=NUMPY_MODES[padding_value])
    return np.pad(images, widths, constant_values=padding_value)


def convolve(images, weights, bias, stride, dilation):
    """Convolves padded images ``(..., H, W, G*C)`` to ``(..., H', W', G*F)``."""
    height, width, channels, filters, groups = weights.shape
    tall, wide = (height - 1) * dilation[0] + 1, (width - 1) * dilation[1] + 1
    rows = (images.shape[-3] - tall) // stride[0] + 1
    columns = (images.shape[-2] - wide) // stride[1] + 1
    y = np.zeros((*images.shape[:-3], rows, columns, groups * filters))
    for i, j, g, f in np.ndindex(rows, columns, groups, filters):
        top, left = i * stride[0], j * stride[1]
        window = images[..., top : top + tall : dilation[0], left : left + wide : dilation[1], :]
        products = window[..., g * channels : (g + 1) * channels] * weights[..., f, g]
        y[..., i, j, g * filters + f] = products.sum(axis=(-3, -2, -1)) + bias[0, 0, f, g]
    return y


def grouped_conv2d(
    x,
    weights,
    bias=None,
    *,
    stride=(1, 1),
    dilation=(1, 1),
    sides=((0, 0), (0, 0)),
    padding_value=0,
    data_format="BSSC",
):
    """Pads and convolves ``x`` in any data format; every argument in its longest form."""
    x, weights = np.asarray(x, np.float64), np.asarray(weights, np.float64)
    bias = np.zeros((1, 1, *weights.shape[3:])) if bias is None else np.asarray(bias, np.float64)
    leading = x.ndim - len(data_format)
    axes = [leading + i for i, letter in enumerate(data_format) if letter == "S"]
    axes.append(leading + data_format.index("C"))
    images = pad(np.moveaxis(x, axes, (-3, -2, -1)), sides, padding_value)
    return np.moveaxis(convolve(images, weights, bias, stride, dilation), (-3, -2, -1), axes)
