"""maskserve's training step at the preset `quick`, with everything that belongs to it: loader, average, logging."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def training_cfg(backbone: str) -> Any:
    """The preset's config, from random weights; both trainers get it."""
    from benchmarks.models import BACKBONES, CLASS_NAMES, SEED
    from maskserve.modeling.device import pick_device
    from maskserve.training.presets import ARMS, resolve_cfg

    arm = ARMS[BACKBONES[backbone]]
    cfg = resolve_cfg(arm, preset="quick", recipe="none", class_count=len(CLASS_NAMES), seed=SEED).clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = pick_device(cfg.MODEL.DEVICE)
    cfg.TEST.EVAL_PERIOD = 0
    return cfg


def steps(dataset: str, backbone: str) -> Callable[[], dict[str, Any]]:
    """A step of training."""
    from detectron2.modeling import build_model
    from detectron2.utils.env import seed_all_rng

    from maskserve.training.datasets.manifest import load_dataset
    from maskserve.training.hooks import Quiet
    from maskserve.training.run_folder import RunFolder
    from maskserve.training.trainer import build_trainer
    from maskserve.training.validation import split

    cfg = training_cfg(backbone)
    folder = tempfile.mkdtemp(prefix="training-", dir=Path(dataset).parent)  # gone with the benchmark's scratch folder
    seed_all_rng(cfg.SEED)
    model = build_model(cfg)
    records = split(load_dataset(dataset)).records
    trainer = build_trainer(cfg, model.train(), records, RunFolder(Path(folder)), score=None, progress=Quiet())
    return in_storage(trainer, cfg)


def in_storage(trainer: Any, cfg: Any) -> Callable[[], dict[str, Any]]:
    """One turn of the loop that `TrainerBase.train` runs."""
    from detectron2.utils.events import EventStorage

    trainer.iter = trainer.start_iter = 0
    trainer.max_iter = cfg.SOLVER.MAX_ITER
    trainer.storage = storage = EventStorage(0)
    with storage:
        trainer.before_train()

    def step() -> dict[str, Any]:
        with storage:
            trainer.before_step()
            trainer.run_step()
            trainer.after_step()
        trainer.iter += 1
        storage.step()
        return {}

    return step
