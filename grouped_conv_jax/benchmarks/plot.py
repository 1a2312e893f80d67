"""Draws the speedups. It uses no pyplot: nothing global, no display."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from grouped_conv_jax.benchmarks import results
from grouped_conv_jax.benchmarks.report import NAMES, TIMES
from grouped_conv_jax.benchmarks.results import Row
from grouped_conv_jax.benchmarks.suites import SUITES

# Okabe and Ito's blue and vermilion, which colour-blind people tell apart.
_COLORS = {"lax": "#0072B2", "torch": "#D55E00"}
_MARKERS = {"lax": "o", "torch": "D"}
_OTHER = "one shape"


def draw(document: dict[str, Any]) -> bytes:
    """Draws how many times faster this package is, suite by suite and role by role, as a PNG.

    Args:
        document: measurements against at least one rival.

    Raises:
        results.UnreadableError: there are no speedups in it.
    """
    rows = [
        row for row in results.case_rows(document) if len(row.records) > 1 and "ours" in row.records
    ]
    rivals = [rival for rival in results.rivals(document) if results.speedups(rows, rival)]
    if not rivals:
        raise results.UnreadableError("there is nothing to draw: no convolution was compared")
    suites = [name for name in (*SUITES, _OTHER) if _members(rows, name)]
    roles = list(dict.fromkeys(row.role for row in rows))
    figure = Figure(figsize=(3.2 * len(roles) + 2.2, 0.5 * len(suites) + 2.0), layout="constrained")
    panels = figure.subplots(1, len(roles), sharex=True, sharey=True, squeeze=False)[0]
    for axes, role in zip(panels, roles, strict=True):
        _draw_role(axes, [row for row in rows if row.role == role], suites, rivals)
        axes.set_title(role.replace("_", " ").capitalize())
    panels[0].set_yticks(range(len(suites)), suites)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(f"Speed relative to others, more is better ({_conditions(document)})")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _draw_role(
    axes: Axes, rows: Sequence[Row], suites: Sequence[str], rivals: Sequence[str]
) -> None:
    axes.set_xscale("log")
    axes.axvline(1, color="0.3", linewidth=1)
    for number, rival in enumerate(rivals):
        # The rivals of a suite stand below each other.
        shift = (number - (len(rivals) - 1) / 2) * 0.32
        style: dict[str, Any] = {
            "color": _COLORS[rival],
            "marker": _MARKERS[rival],
            "linestyle": "none",
        }
        means: list[tuple[float, float]] = []
        for place, suite in enumerate(suites):
            ratios = results.speedups(_members(rows, suite), rival)
            if ratios:
                y = place + shift
                axes.plot(
                    ratios, [y] * len(ratios), **style, alpha=0.35, markersize=4, markeredgewidth=0
                )
                means.append((results.geometric_mean(ratios), y))
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


def _members(rows: Sequence[Row], suite: str) -> list[Row]:
    return [row for row in rows if suite in (row.suites or (_OTHER,))]


def _conditions(document: dict[str, Any]) -> str:
    machine = document["machine"]
    cores = f", {machine['cores']} cores" if machine["platform"] == "cpu" else ""
    return f"{machine['device']}{cores}, {document['settings']['dtype']}"
