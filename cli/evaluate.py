"""`maskserve evaluate`: COCO box and mask AP of a run, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from maskserve.modeling.waiting import wait_briefly
from maskserve.training.own_command import own_command

if TYPE_CHECKING:
    from maskserve.training.evaluate import Ap, Evaluation, Scores


@click.command(short_help="Measure COCO box and mask AP of a trained run.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Dataset folder, or one COCO file.")
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for evaluation.json and samples.png [default: RUN].",
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
    after = own_command("package", run)
    click.echo(f"Wrote {folder / 'evaluation.json'} and samples.png. Next: {after}", err=as_json)


def _table(result: Evaluation) -> str:
    """Rows: all classes, each class, each size of object; AP, AP50 and AP75 of masks and boxes in per cent."""
    title = f"{result.image_count} {result.split} photos, {result.instance_count} instances"
    rows = list(zip(_rows(result.mask), _rows(result.box), strict=True))
    width = max(len(name) for (name, _), _ in rows)
    lines = [title, f"{'':{width}}   mask AP    AP50    AP75    box AP    AP50    AP75"]
    for (name, mask), (_, box) in rows:
        cells = [*_cells(mask), *_cells(box)]
        lines.append(f"{name:{width}}  {cells[0]:>8}{cells[1]:>8}{cells[2]:>8}{cells[3]:>10}{cells[4]:>8}{cells[5]:>8}")
    return "\n".join(lines)


def _rows(scores: Scores) -> list[tuple[str, Sequence[Ap]]]:
    """(name, as many of AP, AP50 and AP75 as are kept) of all, of each class and of each size."""
    return [
        ("all classes", (scores.ap, scores.ap50, scores.ap75)),
        *((name, (ap, scores.per_class_ap50[name])) for name, ap in scores.per_class.items()),
        *((f"{size} objects", (ap,)) for size, ap in scores.per_size.items()),
    ]


def _cells(values: Sequence[Ap]) -> list[str]:
    return [*map(_shown, values), "", ""][:3]


def _shown(value: Ap) -> str:
    return "–" if value is None else f"{value:.1f}"
