"""`maskserve compare`: two trained runs on the same photos ─▶ one HTML page and one JSON file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from maskserve.comparison.findings import LEAST_PAIRS, LEAST_RESAMPLES
from maskserve.modeling.waiting import wait_briefly

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


@click.command(short_help="Compare two trained runs: one page with statistics, cost and a verdict.")
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Dataset folder, or one COCO file.")
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder of the page.  [default: comparisons/A-vs-B]"
)
@click.option("--json", "as_json", is_flag=True, help="comparison.json on stdout, too.")
@click.option(
    "--latency-photos",
    default=40,
    show_default=True,
    type=click.IntRange(LEAST_PAIRS),
    help="Photos that each arm answers on the clock.",
)
@click.option(
    "--resamples",
    default=2000,
    show_default=True,
    type=click.IntRange(LEAST_RESAMPLES),
    help="Draws of the bootstrap.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the bootstrap.")
@click.option("--served", is_flag=True, help="Ask the running TorchServe, too: its answers must have the same AP.")
@click.option("--address", default="localhost:7070", show_default=True, help="TorchServe's gRPC inference API.")
@click.option("--model-a", metavar="NAME[:VERSION]", help="RUN_A's name in TorchServe.  [default: the run's model]")
@click.option("--model-b", metavar="NAME[:VERSION]", help="RUN_B's name in TorchServe.  [default: the run's model]")
@click.option("--token", envvar="MASKSERVE_TOKEN", help="Inference token; better in MASKSERVE_TOKEN than here.")
@click.option("--token-file", type=click.Path(path_type=Path), help="TorchServe's key_file.json, or a text file.")
@click.pass_context
def compare(
    context: click.Context,
    run_a: Path,
    run_b: Path,
    data: Path,
    split: str,
    output: Path | None,
    as_json: bool,
    latency_photos: int,
    resamples: int,
    seed: int,
    served: bool,
    address: str,
    model_a: str | None,
    model_b: str | None,
    token: str | None,
    token_file: Path | None,
) -> None:
    """Compare two trained models, RUN_A and RUN_B, on the same labelled photos: is one better, and is it by chance?

    RUN is a run folder or an archive (.mar). The page has box and mask AP with paired bootstrap intervals, errors,
    latency of both measured in turns, memory, the photos on which they differ, and a verdict in one sentence.

    \b
    Examples:
      maskserve compare runs/mask_rcnn_r50_fpn runs/mask_rcnn_mnv2_fpn --data dataset
      maskserve compare old.mar runs/mask_rcnn_mnv2_fpn --data dataset -o comparisons/new --json
      maskserve compare runs/mask_rcnn_r50_fpn runs/mask_rcnn_mnv2_fpn --data dataset --served

    With --served the exit code is 1 when served and offline AP differ.
    """
    if token and token_file:
        raise click.UsageError("give --token or --token-file, not both")
    wait_briefly()  # before torch is loaded
    with _progress() as progress:
        from maskserve.comparison.run import Job, to_json
        from maskserve.comparison.run import compare as run
        from maskserve.comparison.served import Server

        server = Server(address, (model_a, model_b), token_file or token) if served else None
        job = Job((run_a, run_b), data, split, output, latency_photos, resamples, seed, server)
        comparison, page = run(job, progress)
    if as_json:
        click.echo(to_json(comparison), nl=False)
    if comparison.served:
        click.echo(_served_line(comparison.served.equal, comparison.served.tolerance), err=as_json)
    click.echo(f"{comparison.verdict.sentence}\n{page} has the whole comparison; open it in a browser.", err=as_json)
    if comparison.served and not comparison.served.equal:
        context.exit(1)


def _served_line(equal: bool, tolerance: float) -> str:
    if equal:
        return f"Served AP equals offline AP within {tolerance} points."
    return click.style(f"Served AP does NOT equal offline AP within {tolerance} points: see the page.", fg="red")


class BarProgress:
    """A bar for the stage that is under way; a line for each stage where stderr is no terminal."""

    def __init__(self, bar: RichProgress) -> None:
        self._bar = bar
        self._task: TaskID | None = None

    def stage(self, name: str, total: float) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=total or None)
        if not self._bar.console.is_terminal:
            self._bar.console.print(f"compare: {name}", highlight=False, markup=False, soft_wrap=True)

    def advance(self, steps: float = 1) -> None:
        if self._task is not None:
            self._bar.advance(self._task, steps)


@contextmanager
def _progress() -> Iterator[BarProgress]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        yield BarProgress(bar)
