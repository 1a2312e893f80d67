"""Plots of a run. They avoid pyplot, which has global state and may need a display."""

import io
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from grouped_conv_jax.commands._checkpoints import Row

# Blue and vermilion of Okabe and Ito's colour-blind-safe palette.
_COLORS = {"training": "#0072B2", "validation": "#D55E00"}
_STYLES = {"training": "--", "validation": "-"}
_MOST_NUMBERED_CLASSES = 20
_MOST_NAMED_CLASSES = 60
_FILTERS_A_ROW = 16
_CHANNELS = ("red", "green", "blue")


def draw_curves(history: Sequence[Row], best_epoch: int) -> bytes:
    """Plots loss and accuracy by epoch; returns a PNG."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, color in _COLORS.items():
            values = [row[f"{part}_{quantity}"] for row in history]
            # A line would not show a single epoch.
            marker = "o" if len(epochs) == 1 else None
            axes.plot(epochs, values, _STYLES[part], color=color, marker=marker, label=part)
        axes.axvline(best_epoch, color="0.6", linestyle=":", label=f"kept: epoch {best_epoch}")
        axes.set(xlabel="epoch", title=quantity.capitalize(), xlim=(0.5, len(epochs) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
    loss, accuracy = figure.axes
    loss.set(ylabel="mean cross-entropy")
    losses = [row[f"{part}_loss"] for row in history for part in _COLORS]
    if max(losses) > 10 * min(losses) > 0:
        loss.set(yscale="log")
        loss.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    accuracy.set(ylabel="images classified correctly")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    return _to_png(figure)


def draw_filters(weights: dict[str, np.ndarray]) -> bytes:
    """Plots the filters of layers by group; returns a PNG.

    Args:
        weights: arrays ``(h, w, C, F, G)`` by the name of the layer.
    """
    rows = [
        channels * -(-filters * groups // _FILTERS_A_ROW)
        for *_, channels, filters, groups in (array.shape for array in weights.values())
    ]
    figure = Figure(figsize=(11, 0.62 * sum(rows) + 0.9 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 1, squeeze=False, height_ratios=rows)[:, 0]
    for axes, (name, array) in zip(panels, weights.items(), strict=True):
        _draw_layer(axes, name, array)
    return _to_png(figure)


def _draw_layer(axes: Axes, name: str, weights: np.ndarray) -> None:
    """Draws the channels of a filter in a column, and the filters in a row."""
    height, width, channels, filters, groups = weights.shape
    largest = float(np.abs(weights).max()) or 1.0
    row_height = height * (1.08 * channels + 0.35)
    for number, (group, index) in enumerate(np.ndindex(groups, filters)):
        row, column = divmod(number, _FILTERS_A_ROW)
        left, top = 1.2 * width * column, row_height * row
        label = f"{group + 1}.{index + 1}"
        axes.text(left + width / 2, top - 0.1, label, ha="center", va="bottom", fontsize=8)
        for channel in range(channels):
            upper = top + 1.08 * height * channel
            image = axes.imshow(
                weights[:, :, channel, index, group],
                cmap="RdBu_r",
                vmin=-largest,
                vmax=largest,
                extent=(left, left + width, upper + height, upper),
            )
            if channels == len(_CHANNELS) and column == 0:
                middle = upper + height / 2
                axes.text(-0.2, middle, _CHANNELS[channel], ha="right", va="center", fontsize=8)
    columns = min(_FILTERS_A_ROW, groups * filters)
    axes.set(xlim=(-0.4 * width, 1.2 * width * columns), ylim=(top + row_height, -0.4 * height))
    axes.set_axis_off()
    axes.set_title(
        f"{name}: {_count(groups, 'group')} x {_count(filters, 'filter')} (group.filter)"
    )
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.9, pad=0.01)
    bar.set_label("weight")


def draw_confusion(labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str]) -> bytes:
    """Plots the confusion matrix of the test images; returns a PNG."""
    size = len(classes)
    counts = np.zeros((size, size), int)
    np.add.at(counts, (labels, predictions), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(14.0, max(5.5, 2.5 + 0.45 * size))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, format=PercentFormatter(1.0)).set_label(
        "share of the true class"
    )
    correct = int(np.trace(counts))
    axes.set(
        xlabel="predicted class",
        ylabel="true class",
        title=f"Test: {correct} of {counts.sum()} images correct ({correct / counts.sum():.2%})",
    )
    _name_classes(axes, classes)
    if size <= _MOST_NUMBERED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=color)
    return _to_png(figure)


def _name_classes(axes: Axes, classes: Sequence[str]) -> None:
    step = -(-len(classes) // _MOST_NAMED_CLASSES)
    ticks = range(0, len(classes), step)
    names = [_shorten(classes[i]) for i in ticks]
    rotation = 90 if sum(map(len, names)) > 3 * len(names) or len(names) > 20 else 0
    axes.set_xticks(ticks, names, rotation=rotation)
    axes.set_yticks(ticks, names)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        # Do not parse class names such as "$5" as mathematics.
        label.set_parse_math(False)


def _shorten(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:19]}…"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _to_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Glyphs that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
