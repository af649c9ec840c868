"""The log of a training, as it is found and as it is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maskserve.training.curves import _draw_ap, read_log


def test_rows_are_merged_by_step_and_what_is_no_row_is_passed_over(tmp_path: Path):
    """A training that is killed may leave half a line, to which the next one appends."""
    log = tmp_path / "metrics.jsonl"
    rows = [b'{"iteration": 9, "lr": 1}', b'{"iterat{"iteration": 19}', b"5", b'{"lr": 2}', b"\0\xff", b""]
    log.write_bytes(b"\n".join([*rows, b'{"iteration": 9, "lr": 3}', b'{"iteration": 5}', b'{"iteration": 29, "l']))
    assert read_log(log) == [{"iteration": 5}, {"iteration": 9, "lr": 3}]
    assert read_log(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("ap", [4.0, 55.0, 97.0])
def test_the_legend_covers_no_point(ap: float):
    figure = Figure(figsize=(5.5, 4), dpi=110)
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    _draw_ap(axes, [{"iteration": 39, "segm/AP": ap, "segm/AP50": ap, "bbox/AP50": ap}])
    canvas.draw()
    assert not axes.get_legend().get_window_extent().contains(*axes.transData.transform((40, ap)))
