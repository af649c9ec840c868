"""Steps ─▶ a picture: latency over load, and beside it what was answered and refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maskserve.load.summary import Step

_STYLE: dict[Any, object] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
}
# told apart by shade and dash, too
_PERCENTILES = (
    ("p50_ms", "median", "#a78bdb", ":"),
    ("p95_ms", "95 %", "#7c54c4", "--"),
    ("p99_ms", "99 %", "#4b2a8a", "-"),
)


def draw(steps: Sequence[Step], path: Path) -> None:
    """Writes the picture; the suffix says which kind. Raises OSError, ValueError for a kind that does not exist."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        latency, rates = figure.subplots(1, 2)
        _draw_latency(latency, steps)
        _draw_rates(rates, steps)
        for axes in (latency, rates):
            axes.set_xlabel("requests due a second" if steps[0].mode == "rate" else "users at the same time")
            axes.grid(color="#dddddd", linewidth=0.7)
        figure.savefig(path, dpi=120)


def _draw_latency(axes: Axes, steps: Sequence[Step]) -> None:
    for name, label, colour, dash in _PERCENTILES:
        points = [(step.load, getattr(step.everybody, name)) for step in steps]
        answered = [(load, value) for load, value in points if value is not None]
        if answered:
            xs, ys = zip(*answered, strict=True)
            axes.plot(xs, ys, color=colour, linestyle=dash, marker="o", markersize=3.5, label=label)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("ms from due to answered")
    axes.set_title("Latency over load", loc="left")
    axes.legend(frameon=False)


def _draw_rates(axes: Axes, steps: Sequence[Step]) -> None:
    loads = [step.load for step in steps]
    answered = [step.everybody.answered_per_s for step in steps]
    refused = [(step.everybody.shed + step.everybody.failed) / step.seconds if step.seconds else 0.0 for step in steps]
    axes.plot(loads, answered, color="#4b2a8a", marker="o", markersize=3.5, label="answered")
    axes.plot(loads, refused, color="#c2571a", linestyle="--", marker="s", markersize=3.5, label="shed, failed")
    if steps[0].mode == "rate":
        axes.plot(loads, loads, color="#999999", linestyle=":", label="due")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("a second")
    axes.set_title("Throughput", loc="left")
    axes.legend(frameon=False)
