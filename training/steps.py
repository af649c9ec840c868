"""The steps of one training, in this process or in one of several.

    first process: config, last.pth ─▶ every process: model, its share of the photos ─▶ steps
                                       first process: best weights, logs, last.pth ─▶ outcome.json

A new training begins at the last.pth of step 0, which `maskserve.training.train` writes; a resumed one at a later one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from detectron2.config import CfgNode
from detectron2.engine.hooks import LRScheduler
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import distributed, nn

from maskserve.modeling.device import pick_device
from maskserve.modeling.machine import allowed_cores
from maskserve.protos.errors import ConfigError, DataError
from maskserve.training.datasets.manifest import load_dataset
from maskserve.training.hooks import Checkpoint, Progress, Quiet, Validation
from maskserve.training.job import Job
from maskserve.training.own_command import own_command
from maskserve.training.process import (
    deterministic,
    forget_peak_memory,
    log_to,
    peak_gpu_memory_bytes,
    peak_memory_bytes,
)
from maskserve.training.run_folder import RunFolder
from maskserve.training.step import DivergedError, StepTrainer
from maskserve.training.trainer import build_trainer, precision
from maskserve.training.validation import scorer, split

SETUP = "setup.json"
OUTCOME = "outcome.json"
"""In the working folder as soon as all steps are done."""
RANK_SEED = 1_000_003
LOWER = 4
"""A rate that diverged is divided by this in the advice."""

Value = TypeVar("Value")
Hook = TypeVar("Hook")


@dataclass(frozen=True)
class Outcome:
    """What the steps came to; part of run.json."""

    steps: int
    train_s: float
    """Wall time of the steps and the validations between them, earlier attempts included."""
    stopped_early: bool
    best_step: int
    """The step whose weights were kept."""
    precision: str
    """Of the convolutions: float32 or bfloat16."""
    processes: int
    peak_memory_bytes: int
    """Of the process; of the first where there are several."""
    peak_gpu_memory_bytes: int | None
    """On its GPU; None without one."""


@dataclass(frozen=True)
class Start:
    """What the first process reads and tells the others, perhaps on other machines."""

    cfg: CfgNode
    last: dict[str, Any]
    """last.pth."""
    data_hash: str

    @classmethod
    def read(cls, run: RunFolder) -> Start:
        last = torch.load(run.last, map_location="cpu", weights_only=True)
        return cls(run.load_cfg(), last, run.read_json(SETUP)["data_hash"])


def run_steps(job: Job, progress: Progress, on_trainer: Callable[[StepTrainer], None] = lambda _trainer: None) -> None:
    """All remaining steps of the job, in its working folder.

    Args:
        on_trainer: is given the trainer before the first step.

    Raises:
        ConfigError: the training diverged, or the GPU's memory is too small.
        DataError: a photo cannot be read, or the machines have different data.
        KeyboardInterrupt: stopped; last.pth holds the steps done.
    """
    first = comm.is_main_process()
    with ExitStack() as stack:
        stack.enter_context(deterministic(job.deterministic))
        if first:
            stack.enter_context(log_to(job.run.path / "train.log"))
        start = _from_first(Start.read(job.run) if first else None)
        cfg = _on_device(start.cfg)
        forget_peak_memory(cfg.MODEL.DEVICE)
        trainer = _set_up(job, cfg, start, progress if first else Quiet())
        on_trainer(trainer)
        del start
        _train(job, cfg, trainer, progress if first else Quiet())
        if first:
            job.run.write_json(OUTCOME, asdict(_outcome(cfg, trainer)))


def _from_first(value: Value | None) -> Value:
    """The first process' value, in every process."""
    box: list[Any] = [value]
    if comm.get_world_size() > 1:
        group: Any = distributed.new_group(backend="gloo")
        distributed.broadcast_object_list(box, src=0, group=group)
    return box[0]


def _on_device(cfg: CfgNode) -> CfgNode:
    """The config with `MODEL.DEVICE: auto` decided; a run's config.yaml keeps "auto", it may move."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = pick_device(cfg.MODEL.DEVICE)
    if comm.get_world_size() > 1:
        cfg.MODEL.DEVICE = _of_this_process(cfg.MODEL.DEVICE)
    cfg.freeze()
    return cfg


def _of_this_process(device: str) -> str:
    """The GPU that `launch` chose for the process, or its share of the CPU."""
    if device.startswith("cuda"):
        return "cuda"
    if distributed.get_backend() == "nccl":
        raise ConfigError(f"MODEL.DEVICE {device}: --num-gpus and --num-machines are for GPUs; leave either away")
    torch.set_num_threads(max(1, allowed_cores() // comm.get_local_size()))
    return device


def _set_up(job: Job, cfg: CfgNode, start: Start, progress: Progress) -> StepTrainer:
    """The trainer in the state of `start`."""
    dataset = load_dataset(job.data)
    if dataset.train.data_hash != start.data_hash:
        raise DataError(f"{job.data}: machine {job.machines.rank} has other photos, labels or splits than machine 0")
    first_step = start.last["step"]
    seed_all_rng(cfg.SEED + first_step + RANK_SEED * comm.get_rank())
    model = build_model(cfg)
    model.load_state_dict(start.last["model"])
    chosen = split(dataset)
    score = scorer(cfg, dataset.train.class_names, chosen)
    trainer = build_trainer(cfg, model, chosen.records, job.run, score=score, progress=progress, first_step=first_step)
    trainer.iter = first_step
    for note in _expectations(cfg, model, validated=score is not None):
        progress.note(f"{job.backbone}: {note}")
    if start.last["trainer"] is not None:
        _restore(trainer, start.last)
        progress.note(f"{job.backbone}: goes on at step {first_step} of {cfg.SOLVER.MAX_ITER}")
    return trainer


def _restore(trainer: StepTrainer, last: dict[str, Any]) -> None:
    """Optimizer, schedule and hooks as they were, with the rates of the config, which may have been lowered."""
    rates = [group["initial_lr"] for group in trainer.optimizer.param_groups]
    trainer.load_state_dict(last["trainer"])
    trainer.iter = last["step"]
    scheduler = _hook(trainer, LRScheduler).scheduler
    scheduler.base_lrs = rates
    for group, rate, now in zip(trainer.optimizer.param_groups, rates, scheduler.get_lr(), strict=True):
        group["initial_lr"], group["lr"] = rate, now
    if comm.is_main_process():
        checkpoint = _hook(trainer, Checkpoint)
        checkpoint.elapsed_s, checkpoint.done_step = last["elapsed_s"], last["step"]


def _expectations(cfg: CfgNode, model: nn.Module, *, validated: bool) -> Iterator[str]:
    """What somebody who only read the config would not expect."""
    if cfg.SOLVER.AMP.ENABLED and precision(cfg) is torch.float32:
        device = "GPU" if cfg.MODEL.DEVICE.startswith("cuda") else "CPU"
        yield f"this {device} does not calculate in bfloat16; trains in float32"
    if cfg.SOLVER.PATIENCE and not (validated and cfg.TEST.EVAL_PERIOD > 0):
        yield "SOLVER.PATIENCE has no effect without validation (val.json or 40 photos, and TEST.EVAL_PERIOD)"
    if cfg.SOLVER.MAX_ITER <= cfg.SOLVER.WARMUP_ITERS:
        yield (
            f"all {cfg.SOLVER.MAX_ITER} steps are warm-up (SOLVER.WARMUP_ITERS is {cfg.SOLVER.WARMUP_ITERS}), none has "
            f"more than {cfg.SOLVER.WARMUP_FACTOR:g} of SOLVER.BASE_LR: next to nothing is learnt"
        )
    parts = comm.get_world_size() * cfg.SOLVER.ACCUMULATE
    if parts > 1 and any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        photos, indifferent = cfg.SOLVER.IMS_PER_BATCH // parts, "GN" if cfg.SOLVER.ACCUMULATE > 1 else "SyncBN or GN"
        yield (
            f"batch norm sees {photos} of the {cfg.SOLVER.IMS_PER_BATCH} photos of a step at a time; "
            f"{indifferent} in the NORM keys does not depend on it"
        )


def _train(job: Job, cfg: CfgNode, trainer: StepTrainer, progress: Progress) -> None:
    try:
        if trainer.iter < cfg.SOLVER.MAX_ITER:
            trainer.train(trainer.iter, cfg.SOLVER.MAX_ITER)
    except DivergedError as error:
        raise ConfigError(_advice(job, cfg, trainer, error)) from error
    except torch.OutOfMemoryError as error:
        more = cfg.SOLVER.ACCUMULATE * 2
        raise ConfigError(
            f"{job.backbone}: the GPU's memory is too small for this batch; the same step from smaller parts: "
            f"SOLVER.ACCUMULATE {more}"
        ) from error
    except KeyboardInterrupt:
        if comm.is_main_process():
            done = _hook(trainer, Checkpoint).saved_step
            progress.note(
                f"{job.backbone}: stopped after step {done} of {cfg.SOLVER.MAX_ITER}; continue with\n"
                f"  {job.resume_command()}"
            )
        raise


def _advice(job: Job, cfg: CfgNode, trainer: StepTrainer, error: DivergedError) -> str:
    """What happened, what is kept, what to try."""
    rate = cfg.SOLVER.BASE_LR / LOWER
    lines = [
        f"{job.backbone}: the training diverged at step {error.step} of {cfg.SOLVER.MAX_ITER}: {error.what}",
        "start again with a lower rate:",
        f"  {job.restart_command(rate)}",
    ]
    saved = _hook(trainer, Checkpoint).saved_step if comm.is_main_process() else 0
    if saved:
        lines += [f"or go on from step {saved}, the last one saved before:", f"  {job.resume_command(rate)}"]
    validation = _hook(trainer, Validation)
    if validation.best_step:
        lines.append(f"the best weights so far, of step {validation.best_step}, are kept: {job.run.weights}")
    lines.append(f"if lower rates diverge too, look for wrong boxes: {own_command('data', 'check', job.data)}")
    return "\n".join(lines)


def _outcome(cfg: CfgNode, trainer: StepTrainer) -> Outcome:
    checkpoint, validation = _hook(trainer, Checkpoint), _hook(trainer, Validation)
    return Outcome(
        steps=checkpoint.done_step,
        train_s=round(checkpoint.elapsed_s, 1),
        stopped_early=validation.exhausted,
        best_step=validation.best_step,
        precision=str(precision(cfg)).removeprefix("torch."),
        processes=comm.get_world_size(),
        peak_memory_bytes=peak_memory_bytes(),
        peak_gpu_memory_bytes=peak_gpu_memory_bytes(cfg.MODEL.DEVICE),
    )


def _hook(trainer: StepTrainer, kind: type[Hook]) -> Hook:
    return next(hook for hook in trainer._hooks if isinstance(hook, kind))
