"""Comparison + pictures ─▶ one HTML file that needs nothing else: styles, plots and photos are in it, scripts are not.

page.html (Jinja2, escapes all text) ◀─ plots.py, pictures.py, cautions.py; numbers become text here and nowhere else.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from maskserve.comparison.cautions import cautions
from maskserve.comparison.pictures import Gallery
from maskserve.comparison.plots import Plot, ahead, as_file, draw_curves, draw_plots, row_name
from maskserve.comparison.results import ALL_CLASSES, ARM_NAMES, ArmName, Comparison, Confusion, Kind, Row
from maskserve.training.own_command import own_command

TEMPLATES = Path(__file__).parent / "templates"
MINUS = "−"
_FILE_NAME = re.compile(r"[^\w.-]+")
"""What a class name may hold and a file name should not."""
_FILE_LETTERS = 40
"""Of a class name in a file name, of which the file system takes 255 bytes."""


def render_page(comparison: Comparison, galleries: Sequence[Gallery]) -> str:
    """The page's HTML."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "ap": ap_text,
        "signed": signed_text,
        "percent": percent_text,
        "chance": chance_text,
        "big": big_text,
        "mb": mb_text,
        "ms": ms_text,
        "base64": lambda data: b64encode(data).decode("ascii"),
        "row_name": row_name,
        "row_groups": row_groups,
        "ahead": ahead,
        "photo_name": lambda photo: Path(photo.file_name).name,
    }
    return environment.get_template("page.html").render(
        c=comparison,
        s=comparison.statistics,
        facts={"a": comparison.a, "b": comparison.b},
        costs={"a": comparison.cost.a, "b": comparison.cost.b},
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        plots={name: _safe(plot) for name, plot in draw_plots(comparison).items()},
        curves=[(name, _safe(plot)) for name, plot in draw_curves(comparison.statistics.mask)],
        galleries=galleries,
        cautions=cautions(comparison),
        confusion=confusion_rows(comparison.statistics.confusion),
        command=command_line(comparison),
    )


def plot_files(comparison: Comparison) -> dict[str, str]:
    """The page's plots as SVG files: name ─▶ content, in the colours of the light page."""
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    colours = style[style.index(":root") : style.index("}") + 1]
    plots = draw_plots(comparison)
    for index, (name, plot) in enumerate(draw_curves(comparison.statistics.mask)):
        plots[f"curve_{index}_{_FILE_NAME.sub('_', name)[:_FILE_LETTERS] or 'all'}"] = plot
    return {f"{name}.svg": as_file(plot, colours) for name, plot in plots.items()}


def _safe(plot: Plot) -> tuple[Markup, str]:
    """matplotlib has escaped the texts in its SVG."""
    return Markup(plot.svg), plot.text


def command_line(comparison: Comparison) -> str:
    """What makes this page again."""
    a, b, statistics = comparison.a, comparison.b, comparison.statistics
    words = ["compare", a.run, b.run, "--data", statistics.data]
    words += ["--resamples", str(statistics.resamples), "--seed", str(statistics.seed)]
    words += ["--latency-photos", str(len(comparison.cost.a.latency_ms))]
    if comparison.served:
        words += ["--served", "--address", comparison.served.address]
        for arm in comparison.served.arms:
            words += [f"--model-{arm.arm}", f"{arm.model}:{arm.version}"]
    return own_command(*words)


def row_groups(kind: Kind) -> list[tuple[str, list[Row]]]:
    """(title, rows): everything, by class, by size."""
    rows = kind.rows
    groups = [
        ("All objects", [row for row in rows if row.class_name == ALL_CLASSES and row.area == "all"]),
        ("By class", [row for row in rows if row.class_name != ALL_CLASSES]),
        ("By size", [row for row in rows if row.class_name == ALL_CLASSES and row.area != "all"]),
    ]
    return [(title, some) for title, some in groups if some]


def confusion_rows(confusion: Sequence[Confusion]) -> list[tuple[str, dict[ArmName, Confusion]]]:
    """(class, both arms), all classes together first where there are several."""
    names = list(dict.fromkeys(one.class_name for one in confusion if one.class_name != ALL_CLASSES))
    by_class = [(name, {one.arm: one for one in confusion if one.class_name == name}) for name in names]
    totals = {arm: _total(arm, [rows[arm] for _, rows in by_class]) for arm in ARM_NAMES}
    return [("all classes", totals), *by_class] if len(names) > 1 else by_class


def _total(arm: ArmName, rows: Sequence[Confusion]) -> Confusion:
    counted = ("labelled", "answers", "found", "wrong_class", "missed", "doubled", "spurious", "wrong_class_answers")
    return Confusion(arm, ALL_CLASSES, **{name: sum(getattr(row, name) for row in rows) for name in counted})


def ap_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def signed_text(value: float | None, digits: int = 1) -> str:
    """ "+4.1", "−4.1", "0.0"."""
    if value is None:
        return "–"
    text = f"{abs(value):.{digits}f}"
    return text if not float(text) else f"{'+' if value > 0 else MINUS}{text}"


def percent_text(value: float) -> str:
    return f"{value * 100:.0f} %"


def chance_text(value: float | None) -> str:
    """A probability from resamples, which cannot tell 1 from nearly 1."""
    if value is None:
        return "–"
    if value < 0.001 or value > 0.999:
        return "< 0.1 %" if value < 0.5 else "> 99.9 %"
    return f"{value * 100:.1f} %" if value < 0.01 or value > 0.99 else f"{value * 100:.0f} %"


def big_text(value: float) -> str:
    """ "5.2 M", "12.3 G"."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def mb_text(value: int) -> str:
    return f"{value / 1e6:.0f} MB" if value >= 100e6 else f"{value / 1e6:.1f} MB"


def ms_text(value: float) -> str:
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"
