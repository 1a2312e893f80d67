"""Plots the speedups. It avoids pyplot, which has global state and may need a display."""

import io
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from grouped_conv_jax.benchmarks import results
from grouped_conv_jax.benchmarks.report import NAMES, groups
from grouped_conv_jax.benchmarks.results import Row
from grouped_conv_jax.benchmarks.tables import TIMES, format_ratio

# Blue and vermilion of Okabe and Ito's colour-blind-safe palette.
_COLORS = {"lax": "#0072B2", "torch": "#D55E00"}
_MARKERS = {"lax": "o", "torch": "D"}


def draw(document: dict[str, Any]) -> bytes:
    """Plots the speedups of this package by suite and role; returns a PNG.

    A case outside all suites gets a row of its own.

    Args:
        document: measurements against at least one rival.

    Raises:
        results.UnreadableError: the document contains no speedups.
    """
    rows = [
        row for row in results.case_rows(document) if len(row.records) > 1 and "ours" in row.records
    ]
    rivals = [rival for rival in results.rivals(document) if results.speedups(rows, rival)]
    if not rivals:
        raise results.UnreadableError("there is nothing to draw: no convolution was compared")
    names = list(groups(rows))
    roles = list(dict.fromkeys(row.role for row in rows))
    size = 3.2 * len(roles) + 2.2, 0.5 * len(names) + 2.0
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(roles), sharex=True, sharey=True, squeeze=False)[0]
    for axes, role in zip(panels, roles, strict=True):
        of_role = groups([row for row in rows if row.role == role])
        _draw_role(axes, [of_role.get(name, []) for name in names], rivals)
        axes.set_title(role.replace("_", " ").capitalize())
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    # A single role makes a narrow figure.
    columns = len(labels) if len(roles) > 1 else 1
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    title = f"Speed relative to others, more is better ({_conditions(document)})"
    figure.suptitle(textwrap.fill(title, int(10 * size[0])))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _draw_role(axes: Axes, places: Sequence[Sequence[Row]], rivals: Sequence[str]) -> None:
    axes.set_xscale("log")
    axes.axvline(1, color="0.3", linewidth=1)
    for number, rival in enumerate(rivals):
        # Offset the rivals of a suite vertically.
        shift = (number - (len(rivals) - 1) / 2) * 0.32
        style: dict[str, Any] = {
            "color": _COLORS[rival],
            "marker": _MARKERS[rival],
            "linestyle": "none",
        }
        means: list[tuple[float, float]] = []
        for place, rows in enumerate(places):
            ratios = results.speedups(rows, rival)
            if ratios:
                y = place + shift
                axes.plot(
                    ratios, [y] * len(ratios), **style, alpha=0.35, markersize=4, markeredgewidth=0
                )
                means.append((results.geometric_mean(ratios), y))
            if len(ratios) == 1:
                # The logarithmic axis alone shows only the order of magnitude.
                axes.annotate(
                    format_ratio(ratios[0]),
                    (ratios[0], y),
                    (0, 7),
                    textcoords="offset points",
                    ha="center",
                    color=_COLORS[rival],
                )
        if means:
            label = f"against {NAMES[rival]}: geometric mean, and each convolution"
            axes.plot(
                *zip(*means, strict=True),
                **style,
                markersize=8,
                markeredgecolor="white",
                label=label,
            )
    axes.xaxis.set_major_locator(LogLocator(10))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}{TIMES}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", alpha=0.3)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _conditions(document: dict[str, Any]) -> str:
    machine = document["machine"]
    cores = f", {machine['cores']} cores" if machine["platform"] == "cpu" else ""
    return f"{machine['device']}{cores}, {document['settings']['dtype']}"
