"""A training step of maskserve against one of Detectron2's own trainer: the same config, photos and weights, in turns.

    data, backbone, preset ─▶ two processes, one a side ─▶ in turns: some steps each ─▶ median ratio of the turns

Detectron2's side is what its user has: SimpleTrainer (AMPTrainer on a GPU, where the config asks; it refuses a CPU),
DatasetMapper, build_detection_train_loader with its default of four workers, its SGD, its hooks and writers. Ours is
the trainer of `maskserve train` with all its hooks, but without validation. Both see photos of the same size
(SCALE_JITTER, which Detectron2 lacks, is off) and have OpenMP threads that sleep while they wait; ours alone keeps
freed memory, as `maskserve train` does.

A side that waits for its turn is stopped, its workers too, so that nothing is prepared at the other's cost.

    .venv/bin/python -m benchmarks.training_step mobilenetv2 --data DATASET [--preset quick] [--init FILE] [--turns 9]
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.bench import Bench
from benchmarks.models import BACKBONES
from benchmarks.results import Claim, Row, ratio_row
from benchmarks.subject import Subject

OURS, THEIRS = "maskserve train", "Detectron2's SimpleTrainer and DatasetMapper"
ENDLESS = 1_000_000
D2_WORKERS = 4
"""Detectron2's default of DATALOADER.NUM_WORKERS."""
D2_WRITER_PERIOD = 20


@dataclass(frozen=True)
class Workload:
    """What both sides train."""

    backbone: str
    data: str
    """A dataset folder."""
    preset: str = "quick"
    init: str = "none"
    overrides: Sequence[str] = ()


def compare(bench: Bench, claim: Claim, workload: Workload, *, steps: int = 1) -> Row:
    """The two sides' turns as a row.

    Args:
        steps: of a side's turn; the row's milliseconds are those of one.
    """
    wanted = {
        side: Subject(f"benchmarks.training_step:{load}", paused=True, steps=steps, workload=asdict(workload))
        for side, load in ((THEIRS, "detectron2_steps"), (OURS, "maskserve_steps"))
    }
    with bench.subjects(wanted, title=claim.what) as turn:
        turns = bench.turns(turn, title=claim.what, warm_ups=2)
    theirs, ours = ([turn.ms / steps for turn in turns[side]] for side in wanted)
    return ratio_row(claim, theirs, ours, (THEIRS, OURS))


# ── the sides, each in its own process ──────────────────────────────────────────────────────────────────────────────


def maskserve_steps(steps: int, workload: Mapping[str, Any]) -> Callable[[], None]:
    from maskserve.modeling.allocator import keep_freed_memory
    from maskserve.training.hooks import Quiet
    from maskserve.training.run_folder import RunFolder
    from maskserve.training.trainer import build_trainer

    keep_freed_memory()
    cfg, model, records = _common(Workload(**workload))
    return _stepper(
        lambda folder: build_trainer(cfg, model, records, RunFolder(folder), score=None, progress=Quiet()), steps
    )


def detectron2_steps(steps: int, workload: Mapping[str, Any]) -> Callable[[], None]:
    cfg, model, records = _common(Workload(**workload))
    return _stepper(lambda folder: _detectron2_trainer(cfg, model, records, folder), steps)


def _stepper(build: Callable[[Path], Any], steps: int) -> Callable[[], None]:
    """Detectron2's TrainerBase.train, a few steps at a time; the trainer's folder is gone when the process ends."""
    from detectron2.utils.events import EventStorage

    folder = tempfile.TemporaryDirectory(prefix="training-step-")
    trainer = build(Path(folder.name))
    trainer.max_iter = ENDLESS
    trainer.storage = EventStorage()
    with trainer.storage:
        trainer.before_train()

    def step() -> None:
        assert folder  # for as long as there are steps
        with trainer.storage:
            for _ in range(steps):
                trainer.before_step()
                trainer.run_step()
                trainer.after_step()
                trainer.iter += 1

    return step


def _detectron2_trainer(cfg: Any, model: Any, records: list[dict[str, Any]], folder: Path) -> Any:
    from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
    from detectron2.engine import AMPTrainer, SimpleTrainer, default_writers, hooks
    from detectron2.solver import build_lr_scheduler, build_optimizer

    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = D2_WORKERS
    cfg.DATASETS.TRAIN = ("benchmark_train",)
    DatasetCatalog.register("benchmark_train", lambda: records)
    MetadataCatalog.get("benchmark_train").thing_classes = [
        str(index) for index in range(cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    ]
    mixed = cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE.startswith("cuda")
    optimizer = build_optimizer(cfg, model)
    trainer = (AMPTrainer if mixed else SimpleTrainer)(model, build_detection_train_loader(cfg), optimizer)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(optimizer, build_lr_scheduler(cfg, optimizer)),
            hooks.PeriodicWriter(default_writers(str(folder), ENDLESS), period=D2_WRITER_PERIOD),
        ]
    )
    return trainer


def _common(workload: Workload) -> tuple[Any, Any, list[dict[str, Any]]]:
    """Config, model with its initial weights, records of the training photos."""
    from detectron2.modeling import build_model
    from detectron2.utils.env import seed_all_rng

    from maskserve.modeling.device import pick_device
    from maskserve.training.datasets.manifest import dataset_dicts, load_dataset
    from maskserve.training.presets import ARMS, resolve_cfg
    from maskserve.training.weights import find_weights, load_into

    manifest = load_dataset(workload.data).train
    arm = ARMS[workload.backbone]
    weights = find_weights(
        arm, workload.backbone, workload.init, workload.preset, say=lambda _text: None, on_bytes=lambda *_: None
    )
    cfg = resolve_cfg(
        arm,
        preset=workload.preset,
        recipe=weights.recipe,
        recipe_values=weights.recipe_values,
        class_count=len(manifest.class_names),
        seed=1,
        overrides=("INPUT.SCALE_JITTER", "(1.0,1.0)", *workload.overrides),
    )
    cfg.defrost()
    cfg.MODEL.DEVICE = pick_device(cfg.MODEL.DEVICE)
    cfg.freeze()
    seed_all_rng(1)
    model = build_model(cfg)
    load_into(model, weights)
    return cfg, model, dataset_dicts(manifest)


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", choices=tuple(BACKBONES.values()))
    parser.add_argument("--data", required=True, help="a dataset folder")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--init", default="none", help="a file with initial weights; none: random ones")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="of a side's turn")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    asked = parser.parse_intermixed_args(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the sides are ended, too
    data, init = (str(Path(name).resolve()) if Path(name).exists() else name for name in (asked.data, asked.init))
    workload = Workload(asked.backbone, data, asked.preset, init, asked.overrides)
    claim = Claim("training", f"{asked.backbone}, {asked.preset}, init {Path(init).name}", THEIRS)
    with tempfile.TemporaryDirectory() as scratch:
        row = compare(Bench(Path(scratch), asked.turns, full=False), claim, workload, steps=asked.steps)
    if asked.json:
        click.echo(json.dumps({**asdict(workload), **asdict(row)}))
        return
    ours, theirs = row.sample_medians[OURS], row.sample_medians[THEIRS]
    click.echo(
        f"{claim.what}: a step takes {ours:.0f} ms, Detectron2's {theirs:.0f} ms; {row.median:.2f} times as fast "
        f"[{min(row.values):.2f}, {max(row.values):.2f}], median of {asked.turns} turns of {asked.steps} steps"
    )


if __name__ == "__main__":
    main()
