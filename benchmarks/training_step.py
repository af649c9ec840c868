"""A training step of maskserve against one of Detectron2's own trainer: the same config, photos and weights, in turns.

    data, backbone, preset ─▶ two processes, one a side ─▶ in turns: some steps each ─▶ median ratio of the turns

Detectron2's side is what its user has: SimpleTrainer (AMPTrainer on a GPU, where the config asks), DatasetMapper,
build_detection_train_loader with its default of four workers, its SGD, its hooks and writers. Ours is the trainer of
`maskserve train` with all its hooks, but without validation. Both see photos of the same size (SCALE_JITTER, which
Detectron2 lacks, is off) and have OpenMP threads that sleep while they wait; ours alone keeps freed memory, as
`maskserve train` does.

A side that waits for its turn is stopped, its workers too, so that nothing is prepared at the other's cost.

    .venv/bin/python benchmarks/training_step.py mobilenetv2 --data DATASET [--preset quick] [--init FILE] [--turns 9]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

Steps = Callable[[int], float]
"""Does so many steps and returns the seconds that they took."""
SIDES = ("maskserve", "detectron2")
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
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Seconds a step, one number a turn, and their ratio."""

    maskserve_s: list[float]
    detectron2_s: list[float]

    @property
    def ratios(self) -> list[float]:
        """How many times faster than Detectron2 each turn was."""
        return [theirs / own for own, theirs in zip(self.maskserve_s, self.detectron2_s, strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


def compare(workload: Workload, *, turns: int = 9, steps: int = 4, warmup: int = 4) -> Comparison:
    """Let both sides train in turns, each in a process of its own.

    Args:
        steps: of one side's turn.
        warmup: steps of each side before the first turn.
    """
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    with _side("maskserve", workload) as ours, _side("detectron2", workload) as theirs:
        run = {"maskserve": ours, "detectron2": theirs}
        for side in SIDES:
            run[side](warmup)
        for turn in range(turns):
            for side in SIDES if turn % 2 else SIDES[::-1]:
                times[side].append(run[side](steps) / steps)
    return Comparison(times["maskserve"], times["detectron2"])


def build_side(side: str, workload: Workload, folder: Path) -> Steps:
    """One side's steps in this process."""
    folder.mkdir(parents=True, exist_ok=True)
    trainer = {"maskserve": _maskserve, "detectron2": _detectron2}[side](workload, folder)
    return _stepper(trainer)


def _stepper(trainer: Any) -> Steps:
    """Detectron2's TrainerBase.train, a few steps at a time."""
    from detectron2.utils.events import EventStorage

    trainer.max_iter = ENDLESS
    trainer.storage = EventStorage()
    with trainer.storage:
        trainer.before_train()

    def steps(count: int) -> float:
        start = time.perf_counter()
        with trainer.storage:
            for _ in range(count):
                trainer.before_step()
                trainer.run_step()
                trainer.after_step()
                trainer.iter += 1
        return time.perf_counter() - start

    return steps


def _maskserve(workload: Workload, folder: Path) -> Any:
    from maskserve.training.hooks import Quiet
    from maskserve.training.run_folder import RunFolder
    from maskserve.training.trainer import build_trainer

    cfg, model, records = _common(workload)
    return build_trainer(cfg, model, records, RunFolder(folder), score=None, progress=Quiet())


def _detectron2(workload: Workload, folder: Path) -> Any:
    from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
    from detectron2.engine import AMPTrainer, SimpleTrainer, default_writers, hooks
    from detectron2.solver import build_lr_scheduler, build_optimizer

    cfg, model, records = _common(workload)
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = D2_WORKERS
    cfg.DATASETS.TRAIN = ("benchmark_train",)
    DatasetCatalog.register("benchmark_train", lambda: records)
    MetadataCatalog.get("benchmark_train").thing_classes = [
        str(index) for index in range(cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    ]
    mixed = cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE.startswith("cuda")  # AMPTrainer works on GPUs alone
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


@contextmanager
def _side(side: str, workload: Workload) -> Iterator[Steps]:
    """A side in its own process, which is stopped whenever it has nothing to do."""
    said = json.dumps(asdict(workload))
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", side, said],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # threads that spin while they wait, the default, lose tenfold as soon as anything else wants the cores
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert process.stdin
    assert process.stdout

    def steps(count: int) -> float:
        os.killpg(process.pid, signal.SIGCONT)
        print(count, file=process.stdin, flush=True)
        answer = process.stdout.readline() if process.stdout else ""
        if not answer:
            raise RuntimeError(f"the side {side} ended; what it said is above")
        os.killpg(process.pid, signal.SIGSTOP)
        return float(answer)

    try:
        yield steps
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _serve(side: str, workload: Workload) -> None:
    """The process of one side: a number of steps on each line of stdin, the seconds they took on stdout."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever the libraries print
    if side == "maskserve":
        from maskserve.modeling.allocator import keep_freed_memory

        keep_freed_memory()  # as `maskserve train` does
    with tempfile.TemporaryDirectory() as folder:
        steps = build_side(side, workload, Path(folder))
        for line in sys.stdin:
            print(steps(int(line)), file=answers, flush=True)


def main(words: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["--serve"]:
        options = json.loads(words[2])
        _serve(words[1], Workload(**{**options, "overrides": tuple(options["overrides"])}))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", choices=("resnet50", "mobilenetv2"))
    parser.add_argument("--data", required=True, help="a dataset folder")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--init", default="none", help="a file with initial weights; none: random ones")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="of a side's turn")
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    asked = parser.parse_args(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the sides are ended, too
    workload = Workload(asked.backbone, asked.data, asked.preset, asked.init, tuple(asked.overrides))
    found = compare(workload, turns=asked.turns, steps=asked.steps, warmup=asked.warmup)
    if asked.json:
        click.echo(json.dumps({**asdict(workload), **asdict(found), "ratio": found.ratio}))
        return
    ours, theirs = statistics.median(found.maskserve_s), statistics.median(found.detectron2_s)
    click.echo(
        f"{asked.backbone}, {asked.preset}, init {Path(asked.init).name}: a step takes {ours * 1000:.0f} ms, "
        f"Detectron2's {theirs * 1000:.0f} ms; {found.ratio:.2f} times as fast "
        f"[{min(found.ratios):.2f}, {max(found.ratios):.2f}], median of {asked.turns} turns of {asked.steps} steps"
    )


if __name__ == "__main__":
    main()
