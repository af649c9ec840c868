"""`maskserve train`: labelled photos ─▶ one or both arms, with a progress bar."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

BACKBONES = ("resnet50", "mobilenetv2")
PLAIN_PERIOD = 20
"""Steps between two lines where there is no terminal to draw a bar on."""


@click.command(short_help="Train one arm, or both, on labelled photos.")
@click.argument("backbone", type=click.Choice([*BACKBONES, "all"]))
@click.argument("overrides", nargs=-1, metavar="[KEY VALUE]...")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Dataset folder with train.json.")
@click.option("--preset", default="standard", show_default=True, type=click.Choice(["quick", "standard"]))
@click.option(
    "--init", default="auto", show_default=True, metavar="auto|coco|imagenet|none|FILE", help="Initial weights."
)
@click.option(
    "--output", default="runs", show_default=True, type=click.Path(path_type=Path), help="Where run folders go."
)
@click.option("--resume", is_flag=True, help="Continue interrupted trainings; skip complete ones.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Same seed, same training.")
def train(
    backbone: str,
    overrides: tuple[str, ...],
    data: Path,
    preset: str,
    init: str,
    output: Path,
    resume: bool,
    seed: int,
) -> None:
    """Train Mask R-CNN with a ResNet-50, a MobileNetV2, or both (all) on labelled photos.

    Both arms get the same data, schedule and seed. KEY VALUE pairs change the config, as in Detectron2.

    \b
    Examples:
      maskserve train all --data dataset --preset quick
      maskserve train resnet50 --data dataset SOLVER.MAX_ITER 1000 SOLVER.BASE_LR 0.002
      maskserve train mobilenetv2 --data dataset --resume
    """
    # before torch is loaded: threads that spin while they wait make a step ten times slower as soon as anything else
    # wants the cores; threads that sleep cost nothing measurable when nothing does
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with training_progress() as progress:
        from maskserve.training.train import Job

        names = BACKBONES if backbone == "all" else (backbone,)
        jobs = [Job(name, data, preset, init, output, seed, resume, overrides) for name in names]
        lines = [_train_one(job, progress) for job in jobs]
    for line in lines:
        click.echo(line)
    folders = " ".join(line.split(":")[0] for line in lines)
    click.echo(f"Next: maskserve package {folders.split()[0]}" + ("  (and the other)" if len(lines) > 1 else ""))


def _train_one(job: Any, progress: BarProgress) -> str:
    """Train an arm; returns the line that says what came out."""
    from maskserve.training.train import is_complete, train

    if job.resume and is_complete(job):
        return f"{job.folder}: was complete already"
    progress.begin(job.backbone)
    done = train(job, progress, progress.fetched)
    mask = done.evaluation.mask
    return (
        f"{done.run.path}: mask AP50 {_shown(mask.ap50)}, AP {_shown(mask.ap)} on {done.evaluation.image_count} "
        f"{done.evaluation.split} photos, trained in {done.train_s:.0f} s"
    )


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


class BarProgress:
    """A rich progress bar on stderr with ETA and losses; plain lines where stderr is no terminal."""

    def __init__(self, bar: RichProgress) -> None:
        self.bar = bar
        self.task: TaskID | None = None
        self.name = ""

    def begin(self, name: str) -> None:
        """A new arm."""
        self.name, self.task = name, None
        self.note(f"{name}: preparing")

    def step(self, done: int, total: int, losses: dict[str, float]) -> None:
        text = " ".join(f"{name.removeprefix('loss_')} {value:.2f}" for name, value in losses.items())
        if self.task is None:
            self.task = self.bar.add_task(self.name, total=total, completed=done - 1, losses="")
        self.bar.update(self.task, completed=done, losses=f"loss {sum(losses.values()):.2f} ({text})")
        if not self.bar.console.is_terminal and (done % PLAIN_PERIOD == 0 or done == total):
            left_s = self.bar.tasks[self.task].time_remaining or 0.0
            self.note(f"{self.name}: step {done}/{total}, loss {sum(losses.values()):.2f}, about {left_s:.0f} s left")

    def note(self, text: str) -> None:
        self.bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def fetched(self, done: int, total: int) -> None:
        """Bytes of a download."""
        if self.task is None:
            self.task = self.bar.add_task("fetching weights", losses="")
        self.bar.update(self.task, completed=done, total=total or None)
        if total and done >= total:
            self.bar.remove_task(self.task)
            self.task = None


@contextmanager
def training_progress() -> Iterator[BarProgress]:
    """The bar, for the time of a training; `maskserve up` uses it too."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield BarProgress(bar)
