"""Results ─▶ docs/benchmarks/*.svg. What was not measured has no plot.

targets      every measured ratio beside its target        stages    stacked: before and after
size         cost by image size                             load      latency over answers/s, and throughput
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.results import Results, Row

COLOURS = ("#7a6cf0", "#009e73", "#e69f00", "#0072b2", "#cc79a7", "#d55e00", "#56b4e9", "#999999")
OURS_COLOUR, PEER_COLOURS = COLOURS[0], COLOURS[2:]
MARKERS = "osD^v"
STYLE: dict[Any, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "maskserve",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}


def draw_plots(results: Results, folder: Path) -> list[tuple[str, str]]:
    """Writes the pictures; (file name, what it shows) of each. Pictures of earlier runs are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    ratios = [row for row in results.rows if row.values and row.claim.unit == "×"]
    series = results.series
    wanted: list[tuple[str, str, Any, Callable[[Any], Figure]]] = [
        ("targets", "Every measured ratio with its interval, and the target beside it", ratios, _targets),
        ("stages", "Where the time of a photo goes, before and after", series.get("stages"), _stages),
        ("size", "Cost by image size", series.get("size"), _size),
        ("load", "Latency over load, and throughput over concurrency", series.get("concurrency"), _load),
    ]
    drawn = []
    with mpl.rc_context(STYLE):
        for name, text, data, draw in wanted:
            if data:
                draw(data).savefig(folder / f"{name}.svg", format="svg", metadata={"Date": None})
                drawn.append((f"{name}.svg", text))
    return drawn


def _targets(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(8.5, 1.2 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        colour = {True: "#009e73", False: "#d55e00", None: "#999999"}[row.met]
        axes.plot([min(row.values), max(row.values)], [place, place], color=colour, linewidth=2)
        axes.plot(row.median, place, "o", color=colour)
        if row.claim.target is not None:
            axes.plot(row.claim.target, place, "|", color="#222222", markersize=11, markeredgewidth=2)
    axes.set_yticks(range(len(rows)), [f"{row.claim.what}\nagainst {row.claim.against}" for row in rows], fontsize=6.5)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("times faster (median, smallest to largest round; | is the target; green: reached)")
    axes.axvline(1, color="#bbbbbb", linewidth=1)
    axes.grid(axis="x")
    return figure


def _stages(stages: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    bars = [(f"{title}\n{side}", kinds) for title, sides in stages.items() for side, kinds in sides.items()]
    names = list(dict.fromkeys(kind for _, kinds in bars for kind in kinds))
    figure = Figure(figsize=(8.5, 1.4 + 0.5 * len(bars)), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(bars)
    for name, colour in zip(names, COLOURS, strict=False):
        widths = [kinds.get(name, 0.0) for _, kinds in bars]
        axes.barh(range(len(bars)), widths, left=left, color=colour, label=name, height=0.62)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, total in enumerate(left):
        axes.text(total, place, f" {total:,.0f} ms", va="center")
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.invert_yaxis()
    axes.set_xlim(right=max(left) * 1.12)
    axes.set_xlabel("ms a photo at 800 px, by kind of operator")
    figure.legend(loc="outside upper center", ncols=4, fontsize=8)
    return figure


def _size(sides: Mapping[str, Mapping[str, float]]) -> Figure:
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for place, (name, points) in enumerate(sides.items()):
        sizes = [int(value) for value in points]
        axes.plot(sizes, list(points.values()), marker=MARKERS[place], color=_colour(name, place), label=name)
    axes.set(xlabel="short side of the network's input, px", ylabel="ms a photo, MNV2-FPN", ylim=(0, None))
    axes.set_xticks(sizes)
    axes.grid()
    axes.legend()
    return figure


def _load(servers: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    latency, throughput = figure.subplots(1, 2)
    for place, (name, points) in enumerate(servers.items()):
        look: dict[str, Any] = {"marker": MARKERS[place], "color": _colour(name, place)}
        rates = [point["rate"] for point in points]
        latency.plot(rates, [point["p50_ms"] for point in points], label=f"{name}, p50", **look)
        latency.plot(rates, [point["p99_ms"] for point in points], linestyle=":", **look)
        throughput.plot([point["concurrency"] for point in points], rates, label=name, **look)
    latency.set(xlabel="answers a second", ylabel="latency, ms: p50, dotted p99", yscale="log", xlim=(0, None))
    latency.yaxis.set_major_formatter(FuncFormatter(_plain))
    throughput.set(xlabel="requests at once", ylabel="answers a second", ylim=(0, None))
    throughput.set_xscale("log", base=2)
    throughput.set_xticks([point["concurrency"] for point in points], [f"{p['concurrency']:g}" for p in points])
    for axes in (latency, throughput):
        axes.grid()
    _shared_legend(figure, throughput)
    return figure


def _shared_legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=1, fontsize=8)


def _plain(value: float, _place: object) -> str:
    return f"{value:,g}"


def _colour(name: str, place: int) -> str:
    return OURS_COLOUR if name.startswith("maskserve") else PEER_COLOURS[place % len(PEER_COLOURS)]
