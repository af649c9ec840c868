"""`maskserve evaluate`: COCO box and mask AP of a run, as a table and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from maskserve.modeling.waiting import wait_briefly

if TYPE_CHECKING:
    from maskserve.training.evaluate import Evaluation, Scores


@click.command(short_help="Measure COCO box and mask AP of a trained run.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Dataset folder, or one COCO file.")
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder for evaluation.json and samples.png [default: RUN]."
)
def evaluate(run: Path, data: Path, split: str, as_json: bool, output: Path | None) -> None:
    """Measure COCO box and mask AP of the trained model in RUN: overall, per class and per size of object.

    \b
    Examples:
      maskserve evaluate runs/mask_rcnn_r50_fpn --data dataset
      maskserve evaluate runs/mask_rcnn_mnv2_fpn --data dataset --split val --json
    """
    import json

    wait_briefly()  # before torch is loaded

    from rich.console import Console
    from rich.progress import Progress

    from maskserve.training.evaluation_run import evaluate_run

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("evaluating", total=None)
        result, folder = evaluate_run(
            run,
            data,
            split=split,
            output=output,
            on_start=lambda total: bar.update(task, total=total),
            on_photo=lambda: bar.advance(task),
        )
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=1, ensure_ascii=False))
    else:
        click.echo(_table(result))
    click.echo(f"Wrote {folder / 'evaluation.json'} and samples.png. Next: maskserve package {run}", err=as_json)


def _table(result: Evaluation) -> str:
    """Rows: all classes, each class, each size of object; AP, AP50 and AP75 of masks and boxes in per cent."""
    title = f"{result.image_count} {result.split} photos, {result.instance_count} instances"
    names = ["all classes", *result.mask.per_class, *(f"{size} objects" for size in result.mask.per_size)]
    width = max(len(name) for name in names)
    lines = [title, f"{'':{width}}   mask AP    AP50    AP75    box AP    AP50    AP75"]
    for name in names:
        cells = [*_cells(result.mask, name), *_cells(result.box, name)]
        lines.append(f"{name:{width}}  {cells[0]:>8}{cells[1]:>8}{cells[2]:>8}{cells[3]:>10}{cells[4]:>8}{cells[5]:>8}")
    return "\n".join(lines)


def _cells(scores: Scores, name: str) -> list[str]:
    """AP, AP50, AP75 of a class, a size, or of all; not all are kept by class and by size."""
    size = name.removesuffix(" objects")
    if name in scores.per_class:
        return [_shown(scores.per_class[name]), _shown(scores.per_class_ap50[name]), ""]
    if size in scores.per_size:
        return [_shown(scores.per_size[size]), "", ""]
    return [_shown(value) for value in (scores.ap, scores.ap50, scores.ap75)]


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
