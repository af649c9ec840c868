"""Detectron2's trainer as is: its DatasetMapper and loader, its optimizer, SimpleTrainer; fp32 on a CPU.

Its AMPTrainer refuses to run without CUDA, so that on a CPU SimpleTrainer is all there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def steps(dataset: str, backbone: str) -> Callable[[], dict[str, Any]]:
    """A step of training at the preset `quick`; the data is registered under the config's own names."""
    import torch
    from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog, build_detection_train_loader
    from detectron2.engine import AMPTrainer, SimpleTrainer
    from detectron2.engine.hooks import LRScheduler
    from detectron2.modeling import build_model
    from detectron2.solver import build_lr_scheduler, build_optimizer
    from detectron2.utils.env import seed_all_rng

    from benchmarks.ours.trainer import in_storage, training_cfg
    from maskserve.training.datasets.manifest import dataset_dicts, load_dataset

    cfg = training_cfg(backbone)
    cfg.DATALOADER.NUM_WORKERS = 4  # Detectron2's default
    manifest = load_dataset(dataset).train
    name = cfg.DATASETS.TRAIN[0]
    DatasetCatalog.register(name, lambda: dataset_dicts(manifest))
    MetadataCatalog.get(name).thing_classes = list(manifest.class_names)
    seed_all_rng(cfg.SEED)
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    loader = build_detection_train_loader(cfg, mapper=DatasetMapper(cfg, is_train=True))
    kind = AMPTrainer if cfg.SOLVER.AMP.ENABLED and torch.cuda.is_available() else SimpleTrainer
    trainer = kind(model.train(), loader, optimizer)
    trainer.register_hooks([LRScheduler(optimizer, build_lr_scheduler(cfg, optimizer))])
    return in_storage(trainer, cfg)
