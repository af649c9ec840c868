"""metrics.jsonl ─▶ curves.png: losses, learning rate and validation AP over the steps, for a person to judge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

LOSS_COLOURS = {
    "total_loss": "#222222",
    "loss_cls": "#0072b2",
    "loss_box_reg": "#e69f00",
    "loss_mask": "#009e73",
    "loss_rpn_cls": "#cc79a7",
    "loss_rpn_loc": "#d55e00",
}
AP_LINES = {"segm/AP50": ("mask AP50", "-"), "segm/AP": ("mask AP", "--"), "bbox/AP50": ("box AP50", ":")}
AP_COLOURS = {"segm/AP50": "#009e73", "segm/AP": "#009e73", "bbox/AP50": "#0072b2"}

Row = Mapping[str, Any]


def read_log(path: Path) -> list[dict[str, Any]]:
    """The logged rows in order of their steps; of a step that was done twice (resumed), the later one.

    What is no row is passed over: a training that was killed while it wrote leaves half of one.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    rows: dict[int, dict[str, Any]] = {}
    for row in filter(None, map(_row, lines)):
        rows.setdefault(int(row["iteration"]), {}).update(row)
    return [rows[step] for step in sorted(rows)]


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "iteration" in row else None


def draw_curves(rows: Sequence[Row], path: Path, title: str) -> None:
    """Write the PNG; without validation there is one panel less."""
    validated = any("segm/AP" in row for row in rows)
    figure = Figure(figsize=(11 if validated else 6, 4), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    _draw_losses(axes[0], rows)
    if validated:
        _draw_ap(axes[1], rows)
    figure.suptitle(title)
    figure.savefig(path, format="png")


def _draw_losses(axes: Axes, rows: Sequence[Row]) -> None:
    for name, colour in LOSS_COLOURS.items():
        steps, values = _series(rows, name)
        axes.plot(steps, values, color=colour, label=name.removeprefix("loss_").replace("_", " "), linewidth=1.6)
    axes.set(xlabel="step", ylabel="loss (median of 20 steps)", yscale="log")
    axes.grid(alpha=0.25)
    axes.set_ylim(top=axes.get_ylim()[1] * 4)  # room for the legend
    axes.legend(fontsize=8, ncols=3, loc="upper center")
    rate = axes.twinx()
    rate.plot(*_series(rows, "lr"), color="#999999", linewidth=1, linestyle=":")
    rate.set_ylabel("learning rate (dotted)", color="#777777")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))


def _draw_ap(axes: Axes, rows: Sequence[Row]) -> None:
    for name, (label, style) in AP_LINES.items():
        steps, values = _series(rows, name)
        axes.plot(steps, values, style, marker="o", color=AP_COLOURS[name], label=label)
    axes.set(xlabel="step", ylabel="validation AP, %", ylim=(0, 100))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="best")  # where no point is: those of an AP near 0 lie at the bottom


def _series(rows: Sequence[Row], name: str) -> tuple[list[int], list[float]]:
    found = [(int(row["iteration"]) + 1, float(row[name])) for row in rows if name in row]
    return [step for step, _ in found], [value for _, value in found]
