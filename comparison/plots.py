"""The page's plots as inline SVG: text stays text, colours are the page's own variables, so that dark mode holds.

    Comparison ─▶ matplotlib ─▶ SVG ─▶ without prolog, metadata and namespaces; ids made unique ─▶ Plot

Arm a is violet, solid, a circle; arm b is green, dashed, a square: everywhere, and told apart without colours too.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maskserve.comparison.results import ALL_CLASSES, ARM_NAMES, ArmName, Comparison, Kind, Row

# placeholders that the page's style sheet colours; any colours that nothing else has
INK, LINE, ARM_COLOURS = "#010101", "#020202", {"a": "#030303", "b": "#040404"}
PLACEHOLDERS = {
    INK: "currentColor",
    LINE: "var(--line)",
    ARM_COLOURS["a"]: "var(--a)",
    ARM_COLOURS["b"]: "var(--b)",
}
MARKERS: dict[ArmName, str] = {"a": "o", "b": "s"}
DASHES: dict[ArmName, str] = {"a": "-", "b": (0, (4, 1.5))}  # type: ignore[dict-item]
WIDTH_IN = 4.8
"""345 pt: on a phone a plot is as wide as the screen, and its letters are 9 px."""
MAX_CLASSES = 8
"""With a curve of their own."""
MAX_LETTERS = 28
_NOT_XML = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Control characters, which a class name may hold and XML may not, not even escaped."""
RECALLS = np.linspace(0, 1, 101)
STYLE: dict[Any, object] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True)
class Plot:
    """One picture of the page."""

    svg: str
    text: str
    """What it shows, for those who cannot see it."""


def draw_plots(comparison: Comparison) -> dict[str, Plot]:
    """By name: forest_mask, forest_box, calibration, speed."""
    statistics = comparison.statistics
    return {
        "forest_mask": _plot("forest-mask", partial(_forest, statistics.mask.rows), _forest_text("mask", comparison)),
        "forest_box": _plot("forest-box", partial(_forest, statistics.box.rows), _forest_text("box", comparison)),
        "calibration": _plot("calibration", partial(_calibration, comparison), _calibration_text(comparison)),
        "speed": _plot("speed", partial(_speed, comparison), _speed_text(comparison)),
    }


def draw_curves(kind: Kind) -> list[tuple[str, Plot]]:
    """(class, precision against recall of its masks): all classes first, then each where there are several."""
    names = list(dict.fromkeys(curve.class_name for curve in kind.curves))
    shown = names[: MAX_CLASSES + 1] if len(names) > 2 else names[:1]
    return [
        (
            name,
            _plot(
                f"curve-{index}",
                partial(_curves, kind, name),
                f"Precision against recall of masks of {name or 'all classes'}, at IoU 0.5 and 0.75.",
            ),
        )
        for index, name in enumerate(shown)
    ]


def as_file(plot: Plot, style: str) -> str:
    """An SVG file of its own, for a report.

    Args:
        style: CSS that gives `:root` the page's colours, as variables.
    """
    svg = plot.svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg" role="img"', 1)
    start = svg.index(">") + 1
    paper = "svg { background: var(--card); color: var(--ink); }"
    return f"{svg[:start]}<title>{escape(plot.text)}</title><style>{style} {paper}</style>{svg[start:]}\n"


def row_name(row: Row) -> str:
    """ "AP", "AP50 of red panda", "AP of small objects"."""
    if row.area != "all":
        return f"{row.metric} of {row.area} objects"
    return row.metric if row.class_name == ALL_CLASSES else f"{row.metric} of {row.class_name}"


def ahead(row: Row) -> str:
    """The arm that is ahead beyond chance, "a" or "b"; "" when the interval holds zero."""
    if row.low is None or row.high is None:
        return ""
    return "a" if row.low > 0 else "b" if row.high < 0 else ""


def _plot(name: str, draw: Callable[[], Figure], text: str) -> Plot:
    with mpl.rc_context(STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the browser has other fonts
        file = io.StringIO()
        draw().savefig(file, format="svg", transparent=True)
    svg, text = (_NOT_XML.sub("\ufffd", part) for part in (file.getvalue(), text))
    return Plot(_inline(svg, name), text)


def _inline(svg: str, name: str) -> str:
    """What may stand in the middle of a page, beside other plots."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would hold for the whole page
    svg = (
        re.sub(r'\s(?:xmlns(?::xlink)?|width|height|version)="[^"]*"', "", svg[: svg.index(">")])
        + svg[svg.index(">") :]
    )
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{name}-", svg)
    for placeholder, variable in PLACEHOLDERS.items():
        svg = svg.replace(placeholder, variable)
    return svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)


def _figure(height_in: float, columns: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    return figure, figure.subplots(1, columns)


def _forest(rows: tuple[Row, ...]) -> Figure:
    """A line with its interval for each row, coloured by who is ahead beyond doubt."""
    known = [row for row in rows if row.difference is not None and row.low is not None and row.high is not None]
    figure, axes = _figure(0.9 + 0.23 * len(known))
    for place, row in enumerate(reversed(known)):
        colour = ARM_COLOURS.get(ahead(row), INK)
        axes.plot([row.low, row.high], [place, place], color=colour, solid_capstyle="butt")
        axes.plot([row.difference], [place], color=colour, marker="D", markersize=4.5)
    axes.set_yticks(range(len(known)), [_shortened(row_name(row)) for row in reversed(known)])
    axes.axvline(0, color=INK, linewidth=1)
    axes.grid(axis="x")
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    _include(axes, 0)
    axes.set_xlabel("AP points, A − B")
    axes.set_title("← B better", loc="left")
    axes.set_title("A better →", loc="right")
    return figure


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_LETTERS else f"{name[: MAX_LETTERS - 1]}…"


def _include(axes: Axes, value: float) -> None:
    low, high = axes.get_xlim()
    room = (high - low) * 0.06
    axes.set_xlim(min(low, value - room), max(high, value + room))


def _curves(kind: Kind, class_name: str) -> Figure:
    figure, panels = _figure(2.5, columns=2)
    for axes, iou in zip(panels, (0.5, 0.75), strict=True):
        for curve in kind.curves:
            if curve.class_name == class_name and curve.iou == iou:
                arm = curve.arm
                axes.plot(RECALLS, curve.precision, linestyle=DASHES[arm], color=ARM_COLOURS[arm], label=arm.upper())
        axes.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="recall", title=f"IoU {iou}")
        axes.grid()
        axes.tick_params(length=0)
    panels[0].set_ylabel("precision")
    panels[0].legend(loc="lower left", frameon=False)
    panels[1].set_yticklabels([])
    return figure


def _calibration(comparison: Comparison) -> Figure:
    figure, axes = _figure(3.6)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=":")
    most = max((one.count for part in comparison.statistics.calibration for one in part.bins), default=1)
    for part in comparison.statistics.calibration:
        filled = [one for one in part.bins if one.count]
        scores, precisions = [one.mean_score for one in filled], [one.precision for one in filled]
        colour = ARM_COLOURS[part.arm]
        axes.plot(scores, precisions, linestyle=DASHES[part.arm], color=colour, linewidth=1.2, alpha=0.5)
        sizes = [10 + 150 * one.count / most for one in filled]
        axes.scatter(scores, precisions, s=sizes, marker=MARKERS[part.arm], color=colour, alpha=0.75, linewidths=0)
        axes.plot([], [], linestyle=DASHES[part.arm], color=colour, marker=MARKERS[part.arm], label=part.arm.upper())
    axes.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="score that the model gives", ylabel="share that is right")
    axes.text(0.04, 0.9, "too modest", transform=axes.transAxes)
    axes.text(0.96, 0.06, "too sure", transform=axes.transAxes, ha="right")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    axes.grid()
    axes.tick_params(length=0)
    return figure


def _speed(comparison: Comparison) -> Figure:
    """p50, a bar to the 5th and 95th percentile; mask AP, and on b the interval of the difference as seen from a."""
    figure, axes = _figure(3.2)
    row = comparison.statistics.mask.rows[0]
    for arm in ARM_NAMES:
        cost, facts, ap = _cost(comparison)[arm], _facts(comparison)[arm], row.a if arm == "a" else row.b
        if ap is None:
            continue
        low, high = np.percentile(cost.latency_ms, (5, 95))
        colour = ARM_COLOURS[arm]
        axes.plot([low, high], [ap, ap], color=colour, linewidth=1.3)
        if arm == "b" and row.a is not None and row.low is not None and row.high is not None:
            axes.plot([cost.p50_ms] * 2, [row.a - row.high, row.a - row.low], color=colour, linewidth=1.3)
        label = f"{arm.upper()}  {_shortened(facts.label)}"
        axes.plot([cost.p50_ms], [ap], marker=MARKERS[arm], markersize=9, color=colour, linestyle="", label=label)
    axes.set(xlabel="ms a photo (median; bar: 5th to 95th percentile)", ylabel="mask AP")
    axes.set_xlim(left=0)
    low, high = axes.get_ylim()
    room = max(2.0, (high - low) * 0.15)
    axes.set_ylim(max(0, low - room), min(100, high + room))
    axes.grid()
    axes.tick_params(length=0)
    if row.a is not None:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, ncols=2, handletextpad=0.3)
    return figure


def _forest_text(kind: str, comparison: Comparison) -> str:
    rows: Mapping[str, tuple[Row, ...]] = {
        "mask": comparison.statistics.mask.rows,
        "box": comparison.statistics.box.rows,
    }
    said = [
        f"{row_name(row)} {row.difference:+.1f}, from {row.low:+.1f} to {row.high:+.1f}"
        for row in rows[kind]
        if row.difference is not None and row.low is not None and row.high is not None
    ]
    return f"Differences A − B of {kind} AP in points with 95 % intervals: {'; '.join(said)}."


def _calibration_text(comparison: Comparison) -> str:
    said = [f"{part.arm.upper()} {part.expected_error:.2f}" for part in comparison.statistics.calibration]
    return f"Share of right answers against score. Expected calibration error: {', '.join(said)}."


def _speed_text(comparison: Comparison) -> str:
    row = comparison.statistics.mask.rows[0]
    aps = {"a": row.a, "b": row.b}
    said = [
        f"{arm.upper()} takes {_cost(comparison)[arm].p50_ms:.0f} ms a photo at {aps[arm]:.1f} mask AP"
        for arm in ARM_NAMES
        if aps[arm] is not None
    ]
    return f"{'; '.join(said)}."


def _cost(comparison: Comparison) -> Mapping[ArmName, Any]:
    return {"a": comparison.cost.a, "b": comparison.cost.b}


def _facts(comparison: Comparison) -> Mapping[ArmName, Any]:
    return {"a": comparison.a, "b": comparison.b}
