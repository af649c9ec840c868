"""One command, one trained arm: data, initial weights, config ─▶ Detectron2's trainer ─▶ a complete run folder.

    job ─▶ prepare (new) | reopen (--resume) ─▶ train ─▶ best weights by validation mask AP ─▶ AP on the test split
                                                                                          ─▶ run folder in place

The best checkpoint is chosen on val.json or, where there is none, on a tenth of the training photos that is then not
trained on; never on the test split, which is evaluated once, at the end.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng

from maskserve.modeling.complexity import describe, measure_complexity, typical_size
from maskserve.modeling.network import backbone_name, network_name
from maskserve.modeling.predictor import Predictor, pick_device
from maskserve.protos.errors import ConfigError
from maskserve.training.anchors import fit_anchors
from maskserve.training.curves import draw_curves, read_log
from maskserve.training.datasets.manifest import Dataset, Manifest, dataset_dicts, load_dataset
from maskserve.training.evaluate import Evaluation, evaluate
from maskserve.training.evaluation_run import write_results
from maskserve.training.hooks import Checkpoint, Progress, Quiet, State
from maskserve.training.loader import Record
from maskserve.training.presets import ARMS, resolve_cfg
from maskserve.training.run_folder import RunFolder, git_commit, publish, versions, working_folder
from maskserve.training.samples import sample_sheet
from maskserve.training.trainer import build_trainer
from maskserve.training.weights import find_weights, load_into

SETUP = "setup.json"
VALIDATION_SHARE = 10
"""Every tenth training photo validates where the data has no val.json."""
VALIDATION_FROM = 40
"""Below so many training photos none is spared: the last weights are kept."""
LIBRARY_LOGGERS = ("detectron2", "fvcore", "maskserve.training")


@dataclass(frozen=True)
class Job:
    """What `maskserve train` was asked to do for one arm."""

    backbone: str
    data: Path
    """A dataset folder or its train.json."""
    preset: str = "standard"
    init: str = "auto"
    output: Path = Path("runs")
    seed: int = 1
    resume: bool = False
    overrides: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the complete run goes."""
        return self.output / ARMS[self.backbone].model


@dataclass(frozen=True)
class Trained:
    """A complete run."""

    run: RunFolder
    evaluation: Evaluation
    train_s: float
    """Wall time of the steps and the validations between them."""


@dataclass(frozen=True)
class Split:
    """Photos to train on, and those that choose the best weights."""

    records: list[Record]
    val: Manifest | None
    val_ids: frozenset[Any] | None
    """None: all of `val`."""


def train(job: Job, progress: Progress | None = None, on_bytes: Callable[[int, int], None] | None = None) -> Trained:
    """Train one arm and return its run folder.

    Raises:
        ConfigError: the job cannot be done as asked, or the training diverged.
        DataError: the labelled data cannot be used.
        KeyboardInterrupt: stopped; all steps done so far are kept for --resume.
    """
    progress = progress or Quiet()
    if job.backbone not in ARMS:
        raise ConfigError(f"unknown backbone {job.backbone!r}; choose {' or '.join(ARMS)}")
    dataset = load_dataset(job.data)
    run = working_folder(job.output, ARMS[job.backbone].model)
    if job.resume and not run.last.is_file():
        progress.note(f"{job.backbone}: nothing to resume in {job.output}; starts anew")
        job = replace(job, resume=False)
    cfg, model = _reopen(job, run, dataset) if job.resume else _prepare(job, run, dataset, progress, on_bytes)
    with _log_to(run.path / "train.log"):
        train_s = _run_steps(cfg, model, run, _split(dataset), dataset.train.class_names, job, progress)
        evaluation = _finish(cfg, run, dataset, train_s, progress)
    return Trained(publish(run, job.folder), evaluation, train_s)


def is_complete(job: Job) -> bool:
    """Whether the run folder holds this job's training (same photos, same preset) and none is under way."""
    if working_folder(job.output, ARMS[job.backbone].model).last.is_file() or not (job.folder / "run.json").is_file():
        return False
    facts = RunFolder(job.folder).read_json("run.json")
    asked = {"data_hash": load_dataset(job.data).train.data_hash, "preset": job.preset}
    return asked.items() <= facts.items()


def _prepare(
    job: Job, run: RunFolder, dataset: Dataset, progress: Progress, on_bytes: Callable[[int, int], None] | None
) -> tuple[CfgNode, torch.nn.Module]:
    """A new working folder with config and classes, and the model with its initial weights."""
    arm = ARMS[job.backbone]
    resolve = partial(
        resolve_cfg,
        arm,
        preset=job.preset,
        class_count=len(dataset.train.class_names),
        seed=job.seed,
        overrides=job.overrides,
    )
    backbone = backbone_name(resolve(recipe="none"))  # which network is asked for decides which weights fit
    weights = find_weights(
        arm, backbone, job.init, job.preset, say=progress.note, on_bytes=on_bytes or (lambda *_: None)
    )
    cfg = resolve(recipe=weights.recipe, recipe_values=weights.recipe_values)
    if cfg.MODEL.ANCHOR_GENERATOR.FIT:
        cfg = fit_anchors(cfg, _split(dataset).records, say=progress.note)
    seed_all_rng(job.seed)
    model = build_model(_on_device(cfg))
    loaded = load_into(model, weights)
    complexity = measure_complexity(model, typical_size(cfg))
    progress.note(f"{arm.backbone}: {network_name(cfg)}, {describe(complexity)}")
    if run.path.exists():
        progress.note(f"{arm.backbone}: an interrupted training is discarded (--resume would have continued it)")
        shutil.rmtree(run.path)
    run.path.mkdir(parents=True)
    run.write("config.yaml", lambda path: path.write_text(cfg.dump(), encoding="utf-8"))
    run.write_json("classes.json", list(dataset.train.class_names))
    setup = {
        "model": arm.model,
        "arm": arm.backbone,
        "backbone": backbone_name(cfg),
        "network": network_name(cfg),
        "complexity": complexity.to_json(),
        "preset": job.preset,
        "seed": job.seed,
        "init": {"kind": weights.kind, "source": weights.source, "loaded": loaded, "licence": weights.licence},
        "data": str(dataset.train.path.parent),
        "data_hash": dataset.train.data_hash,
        "overrides": list(job.overrides),
    }
    run.write_json(SETUP, setup)
    return cfg, model


def _reopen(job: Job, run: RunFolder, dataset: Dataset) -> tuple[CfgNode, torch.nn.Module]:
    """The model and config of an interrupted training."""
    if job.overrides:
        raise ConfigError("a resumed training keeps its config; leave the KEY VALUE pairs away, or start anew")
    setup = run.read_json(SETUP)
    if setup["data_hash"] != dataset.train.data_hash:
        raise ConfigError(
            f"the interrupted training of {job.backbone} used other data ({setup['data']}); name that with --data, or "
            "start anew without --resume"
        )
    cfg = run.load_cfg()
    cfg.freeze()
    seed_all_rng(cfg.SEED)
    return cfg, build_model(_on_device(cfg))


def _run_steps(
    cfg: CfgNode,
    model: torch.nn.Module,
    run: RunFolder,
    split: Split,
    class_names: tuple[str, ...],
    job: Job,
    progress: Progress,
) -> float:
    """All remaining steps; returns the wall time in s, that of earlier attempts included."""
    last = torch.load(run.last, map_location="cpu", weights_only=True) if job.resume else None
    first_step = last["step"] if last else 0
    score = _scorer(cfg, class_names, split)
    trainer = build_trainer(
        _on_device(cfg), model, split.records, run, score=score, progress=progress, first_step=first_step
    )
    checkpoint = next(hook for hook in trainer._hooks if isinstance(hook, Checkpoint))
    if last:
        model.load_state_dict(last["model"])
        trainer.load_state_dict(last["trainer"])
        checkpoint.elapsed_s = last["elapsed_s"]
        progress.note(f"{job.backbone}: goes on at step {first_step} of {cfg.SOLVER.MAX_ITER}")
    try:
        if first_step < cfg.SOLVER.MAX_ITER:
            trainer.train(first_step, cfg.SOLVER.MAX_ITER)
    except FloatingPointError as error:
        raise ConfigError(
            f"{job.backbone}: the training diverged at step {trainer.iter + 1} (a loss is infinite or NaN); start "
            f"again with a lower rate, for example SOLVER.BASE_LR {cfg.SOLVER.BASE_LR / 4:g}"
        ) from error
    except KeyboardInterrupt:
        progress.note(
            f"{job.backbone}: stopped after step {checkpoint.saved_step} of {cfg.SOLVER.MAX_ITER}; continue with\n"
            f"  maskserve train {job.backbone} --data {job.data} --output {job.output} --resume"
        )
        raise
    return checkpoint.elapsed_s


def _finish(cfg: CfgNode, run: RunFolder, dataset: Dataset, train_s: float, progress: Progress) -> Evaluation:
    """AP on held-out photos, and the run's record."""
    class_names = dataset.train.class_names
    predictor = Predictor(cfg, class_names, weights=run.weights)
    split, manifest = ("test", dataset.test) if dataset.test else ("val", dataset.val)
    if manifest is None:
        split, manifest = "train", dataset.train
        progress.note("no test.json and no val.json: AP is measured on the training photos and says little")
    evaluation = evaluate(predictor, manifest, split=split)
    write_results(run, evaluation, sample_sheet(predictor, dataset_dicts(manifest)))
    rows = read_log(run.log)
    run.write_json("metrics.json", rows)
    setup = run.read_json(SETUP)
    run.write("curves.png", lambda path: draw_curves(rows, path, f"{setup['model']} · {setup['preset']}"))
    record = {
        **setup,
        "steps": cfg.SOLVER.MAX_ITER,
        "train_s": round(train_s, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "git_commit": git_commit(),
        "versions": versions(),
    }
    run.write_json("run.json", record)
    for leftover in (run.last, run.log, run.path / SETUP):
        leftover.unlink(missing_ok=True)
    return evaluation


def _split(dataset: Dataset) -> Split:
    """val.json validates where there is one, else every tenth training photo (then not trained on)."""
    records = dataset_dicts(dataset.train)
    if dataset.val:
        return Split(records, dataset.val, None)
    if len(records) < VALIDATION_FROM:
        return Split(records, None, None)
    held_out = frozenset(record["image_id"] for record in records[::VALIDATION_SHARE])
    return Split([r for r in records if r["image_id"] not in held_out], dataset.train, held_out)


def _scorer(cfg: CfgNode, class_names: tuple[str, ...], split: Split) -> Callable[[State], dict[str, float]] | None:
    manifest = split.val
    if manifest is None:
        return None

    def score(state: State) -> dict[str, float]:
        with torch.random.fork_rng(devices=[]):  # building a network draws random numbers
            predictor = Predictor(cfg, class_names, weights=state)
        found = evaluate(predictor, manifest, split="val", image_ids=split.val_ids)
        return {
            "bbox/AP": found.box.ap or 0.0,
            "bbox/AP50": found.box.ap50 or 0.0,
            "segm/AP": found.mask.ap or 0.0,
            "segm/AP50": found.mask.ap50 or 0.0,
        }

    return score


def _on_device(cfg: CfgNode) -> CfgNode:
    """The config with `MODEL.DEVICE: auto` decided; a run's config.yaml keeps "auto", it may move."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = pick_device(cfg.MODEL.DEVICE)
    cfg.freeze()
    return cfg


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Detectron2's log goes into a file; the terminal belongs to the progress bar."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in LIBRARY_LOGGERS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
        handler.close()
