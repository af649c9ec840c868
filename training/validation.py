"""Which photos choose the best weights, and how weights are scored on them.

dataset ─▶ Split (train on these, choose on those) ─▶ scorer: state dict ─▶ {metric: value}
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode

from maskserve.modeling.predictor import Predictor
from maskserve.training.datasets.manifest import Dataset, Manifest, dataset_dicts
from maskserve.training.evaluate import evaluate
from maskserve.training.hooks import State
from maskserve.training.loader import Record

VALIDATION_SHARE = 10
"""Every tenth training photo validates where the data has no val.json."""
VALIDATION_FROM = 40
"""Below so many training photos none is spared: the last weights are kept."""


@dataclass(frozen=True)
class Split:
    """Photos to train on, and those that choose the best weights."""

    records: list[Record]
    val: Manifest | None
    val_ids: frozenset[Any] | None
    """None: all of `val`."""


def split(dataset: Dataset) -> Split:
    """val.json validates where there is one, else every tenth training photo (then not trained on)."""
    records = dataset_dicts(dataset.train)
    if dataset.val:
        return Split(records, dataset.val, None)
    if len(records) < VALIDATION_FROM:
        return Split(records, None, None)
    held_out = frozenset(record["image_id"] for record in records[::VALIDATION_SHARE])
    return Split([r for r in records if r["image_id"] not in held_out], dataset.train, held_out)


def scorer(cfg: CfgNode, class_names: tuple[str, ...], split: Split) -> Callable[[State], dict[str, float]] | None:
    """AP of boxes and masks on the validation photos, per cent; None where there are none."""
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
