"""`maskserve train`: labelled photos ─▶ one or both arms, with a progress bar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from maskserve.modeling.waiting import wait_briefly
from maskserve.training.own_command import own_command

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from maskserve.training.job import Job

BACKBONES = ("resnet50", "mobilenetv2")
PRESETS = ("quick", "standard", "best")
PLAIN_PERIOD = 20
"""Steps between two lines where there is no terminal to draw a bar on."""


@click.command(short_help="Train one arm, or both, on labelled photos.")
@click.argument("backbone", type=click.Choice([*BACKBONES, "all"]))
@click.argument("overrides", nargs=-1, metavar="[KEY VALUE]...")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Dataset folder with train.json.")
@click.option("--preset", default="standard", show_default=True, type=click.Choice(PRESETS))
@click.option("--init", metavar="auto|coco|imagenet|none|FILE", help="Initial weights. [default: auto]")
@click.option(
    "--output", default="runs", show_default=True, type=click.Path(path_type=Path), help="Where run folders go."
)
@click.option("--resume", is_flag=True, help="Continue interrupted trainings; skip complete ones.")
@click.option("--seed", type=click.IntRange(0), help="Same seed, same training. [default: 1]")
@click.option("--deterministic", is_flag=True, help="The same bits on a GPU too; slower.")
@click.option("--force", is_flag=True, help="Train although `data check` finds errors.")
@click.option("--num-gpus", default=1, show_default=True, type=click.IntRange(1), help="GPUs on each machine.")
@click.option("--num-machines", default=1, show_default=True, type=click.IntRange(1), help="Machines with GPUs.")
@click.option(
    "--machine-rank", default=0, show_default=True, type=click.IntRange(0), help="Which one this is; 0 leads."
)
@click.option("--dist-url", default="auto", show_default=True, help="tcp://HOST:PORT of machine 0, the same on all.")
@click.option("--json", "as_json", is_flag=True, help="The result of each arm as JSON on stdout.")
def train(
    backbone: str,
    overrides: tuple[str, ...],
    data: Path,
    preset: str,
    init: str | None,
    output: Path,
    resume: bool,
    seed: int | None,
    deterministic: bool,
    force: bool,
    num_gpus: int,
    num_machines: int,
    machine_rank: int,
    dist_url: str,
    as_json: bool,
) -> None:
    """Train Mask R-CNN with a ResNet-50, a MobileNetV2, or both (all) on labelled photos.

    Both arms get the same data, schedule and seed. KEY VALUE pairs change the config, as in Detectron2. The batch
    (SOLVER.IMS_PER_BATCH) is shared by all GPUs of all machines.

    \b
    Examples:
      maskserve train all --data dataset --preset quick
      maskserve train resnet50 --data dataset SOLVER.MAX_ITER 1000 SOLVER.BASE_LR 0.002
      maskserve train mobilenetv2 --data dataset --resume
      maskserve train resnet50 --data dataset SOLVER.ACCUMULATE 4      # the same batch, a quarter at a time
      maskserve train resnet50 --data dataset --num-gpus 4 SOLVER.IMS_PER_BATCH 16
    """
    wait_briefly()  # before torch is loaded
    if num_machines > 1 and backbone == "all":
        raise click.UsageError("several machines train one arm at a time; name it instead of 'all'")
    with training_progress() as progress:
        from maskserve.modeling.allocator import keep_freed_memory
        from maskserve.training.job import Job, Machines
        from maskserve.training.train import check

        keep_freed_memory()
        names = BACKBONES if backbone == "all" else (backbone,)
        machines = Machines(num_gpus, num_machines, machine_rank, dist_url)
        jobs = [
            Job(name, data, preset, init, output, seed, resume, overrides, deterministic, force, machines)
            for name in names
        ]
        for job in jobs:  # all of them before hours of the first
            check(job)
        results = [_train_one(job, progress) for job in jobs]
    _print([result for result in results if result is not None], as_json=as_json)


def _train_one(job: Job, progress: BarProgress) -> dict[str, Any] | None:
    """Train an arm; returns what came out, None where machine 0 has it."""
    from maskserve.training.train import assist, is_complete, train

    progress.begin(job.backbone)
    if job.machines.rank > 0:
        assist(job, progress)
        return None
    if job.resume and is_complete(job):
        progress.note(f"{job.folder}: was complete already")
    else:
        train(job, progress, progress.fetched)
    return _result(job.folder)


def _result(folder: Path) -> dict[str, Any]:
    """A complete run in a few words."""
    from maskserve.training.run_folder import RunFolder

    facts, found = (RunFolder(folder).read_json(name) for name in ("run.json", "evaluation.json"))
    kept = ("backbone", "steps", "stopped_early", "train_s", "precision", "peak_memory_bytes", "peak_gpu_memory_bytes")
    return {
        "run": str(folder),
        **{name: facts.get(name) for name in kept},
        "split": found["split"],
        "image_count": found["image_count"],
        **{kind: {ap: found[kind][ap] for ap in ("ap", "ap50")} for kind in ("mask", "box")},
    }


def _print(results: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(results, indent=1, ensure_ascii=False))
    else:
        for one in results:
            click.echo(
                f"{one['run']}: mask AP50 {_shown(one['mask']['ap50'])}, AP {_shown(one['mask']['ap'])} on "
                f"{one['image_count']} {one['split']} photos, trained in {one['train_s']:.0f} s"
            )
    if not results:
        click.echo("Done here; the run folder is on machine 0.", err=as_json)
        return
    click.echo("Next: " + own_command("package", *(one["run"] for one in results)), err=as_json)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


class BarProgress:
    """A rich progress bar on stderr with ETA and losses; plain lines where stderr is no terminal."""

    def __init__(self, bar: RichProgress) -> None:
        self.bar = bar
        self.task: TaskID | None = None
        self.download: TaskID | None = None
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
            left_s = self.bar.tasks[-1].time_remaining or 0.0
            self.note(f"{self.name}: step {done}/{total}, loss {sum(losses.values()):.2f}, about {left_s:.0f} s left")

    def note(self, text: str) -> None:
        if self.download is not None:  # the text says what came of it
            self.bar.remove_task(self.download)
            self.download = None
        self.bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def fetched(self, done: int, total: int) -> None:
        """Bytes of a download; 0 in total where the server does not say it."""
        if self.download is None:
            self.download = self.bar.add_task("fetching weights", total=None, losses="")
        self.bar.update(self.download, completed=done, total=total or None)


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
