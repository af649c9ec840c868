"""How an archive runs: in the precision asked for, or as is fastest on this machine and costs little accuracy.

    training photos ─▶ int8 trunk ─┐
    validation photos ─────────────┴▶ variants: mask AP of each, ms of all in turns ─▶ choose ─▶ Choice

Variants are fp32, bf16 and int8, each with all of the config's proposals and with fewer. Each is measured as the
predictor that serves it. The photos that judge have neither trained the weights nor set int8's ranges.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from maskserve.modeling.allocator import keep_freed_memory
from maskserve.modeling.device import PRECISIONS, Precision, check_precision, has_fast_bfloat16, pick_device
from maskserve.modeling.predictor import Predictor
from maskserve.protos.errors import ConfigError
from maskserve.training.datasets.manifest import Dataset, Manifest, dataset_dicts, load_dataset
from maskserve.training.evaluate import evaluate
from maskserve.training.evaluation_run import check_classes
from maskserve.training.latency import alternate, machine
from maskserve.training.loader import Record, spread
from maskserve.training.quantize import (
    CALIBRATION_PHOTOS,
    INSTALL,
    check_installed,
    is_installed,
    write_int8_trunk,
)
from maskserve.training.run_folder import RunFolder
from maskserve.training.validation import Split, split
from maskserve.training.variant import AS_TRAINED, Variant

BUDGETS: Mapping[Precision, float] = {"fp32": 0.3, "bf16": 0.3, "int8": 1.0}
"""Points of mask AP (0..100) that a variant in that precision may lose against fp32 with all proposals."""
FEWER_PROPOSALS = 300
"""Instead of Detectron2's 1000, whose second half hardly ever becomes an answer: a fifth faster for 0.4 points of mask
AP on a trained model (docs/precision.md)."""
LEAST_SPEED_UP = 1.05
"""Below that, a less exact variant is not worth having; latencies are not measured more exactly either."""
FEW_PHOTOS = 20
"""Below so many photos, one object more or less found moves AP by more than a budget."""
LATENCY_PHOTOS = 30
OnStep = Callable[[int, int], None]
"""Is called with (done, total) photos."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for."""

    precision: Precision | Literal["auto"] = "fp32"
    data: Path | None = None
    """Dataset folder; by default the one that the run was trained on."""
    accuracy_budget: float | None = None
    """Points of mask AP, in place of BUDGETS."""

    def budgets(self) -> dict[Precision, float]:
        return dict(BUDGETS) if self.accuracy_budget is None else dict.fromkeys(BUDGETS, self.accuracy_budget)


@dataclass(frozen=True, slots=True)
class Measured:
    """One variant on the validation photos, on this machine."""

    precision: Precision
    proposals: int
    mask_ap: float
    """0..100"""
    box_ap: float
    ms: float
    """Median of a photo, decoded already."""
    speed_up: float
    """Median over photos of the first variant's ms ÷ its own."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the choice of "auto" rests on."""

    rows: tuple[Measured, ...]
    """fp32 with all proposals first."""
    left_out: Mapping[str, str]
    """Precision ─▶ why it was not measured."""
    budgets: Mapping[Precision, float]
    photos: str
    """Which photos judged, in words."""
    photo_count: int
    machine: str

    @property
    def chosen(self) -> Measured:
        return choose(self.rows, self.budgets)

    @property
    def few_photos(self) -> bool:
        return self.photo_count < FEW_PHOTOS

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "few_photos": self.few_photos}


@dataclass(frozen=True, slots=True)
class Choice:
    """How an archive is run, and why."""

    variant: Variant = AS_TRAINED
    measurement: Measurement | None = None
    """None where the precision was asked for by name."""


def choose(rows: Sequence[Measured], budgets: Mapping[Precision, float]) -> Measured:
    """The fastest that loses no more mask AP than its budget and is worth it; else the first.

    Args:
        rows: fp32 with all proposals first.
        budgets: points of mask AP, see BUDGETS.
    """
    exact, *others = rows
    fit = [
        row
        for row in others
        # rounded as they are shown: 42.3 against 42.0 is within 0.3
        if round(exact.mask_ap - row.mask_ap, 2) <= budgets[row.precision] and row.speed_up >= LEAST_SPEED_UP
    ]
    return max(fit, key=lambda row: row.speed_up, default=exact)


def settle_precision(
    run: Path,
    request: Request,
    scratch: Path,
    *,
    threads: int | None = None,
    on_step: OnStep = lambda _done, _total: None,
) -> Choice:
    """Measure what is asked to be measured and make what the precision needs.

    Args:
        run: a run folder.
        scratch: where int8's files may be written.
        threads: of the worker, on the CPU; None leaves torch's.

    Raises:
        ConfigError: the precision is not to be had here, or the data is not the run's or cannot judge.
        DataError: the data cannot be read.
    """
    if request.precision == "int8":
        check_installed()
    elif request.precision != "auto":
        return Choice(Variant(check_precision(request.precision, pick_device("auto"))))
    folder, photos = RunFolder(run), split(_training_data(run, request.data))
    with _threads(threads):
        if request.precision == "int8":
            step = _counted(on_step, min(CALIBRATION_PHOTOS, len(photos.records)))
            exact = AS_TRAINED.predictor(folder, device="cpu")
            return Choice(Variant("int8", write_int8_trunk(exact, photos.records, scratch, step)))
        return _fastest(folder, photos, request.budgets(), scratch, on_step)


def _fastest(
    folder: RunFolder, photos: Split, budgets: Mapping[Precision, float], scratch: Path, on_step: OnStep
) -> Choice:
    judges = photos.val
    if judges is None:
        raise ConfigError(
            f"{folder.path}: no photos to judge a precision by: the data has no val.json and too few training photos "
            "to spare some; give it one, or choose the --precision yourself"
        )
    records = [one for one in dataset_dicts(judges) if photos.val_ids is None or one["image_id"] in photos.val_ids]
    keep_freed_memory()  # as a worker does: fresh memory costs fp32, whose activations are larger, more time
    precisions, left_out = _candidates()
    exact = AS_TRAINED.predictor(folder)
    counts = [None, FEWER_PROPOSALS] if exact.cfg.MODEL.RPN.POST_NMS_TOPK_TEST > FEWER_PROPOSALS else [None]
    timed = spread(records, LATENCY_PHOTOS)
    calibrated = min(CALIBRATION_PHOTOS, len(photos.records)) if "int8" in precisions else 0
    step = _counted(on_step, calibrated + len(precisions) * len(counts) * len(records) + len(timed))
    trunk = write_int8_trunk(exact, photos.records, scratch, step) if "int8" in precisions else None
    variants = [Variant(name, trunk if name == "int8" else None, count) for name in precisions for count in counts]
    others = [variant.predictor(folder) for variant in variants if variant != AS_TRAINED]
    rows = _measured([exact, *others], judges, photos, timed, step)
    which = "val.json" if photos.val_ids is None else "every tenth training photo, which did not train the weights"
    measurement = Measurement(rows, left_out, budgets, which, len(records), machine())
    return Choice(variants[rows.index(measurement.chosen)], measurement)


def _measured(
    predictors: Sequence[Predictor],
    judges: Manifest,
    photos: Split,
    timed: Sequence[Record],
    on_step: Callable[[], None],
) -> tuple[Measured, ...]:
    found = [
        evaluate(predictor, judges, split="val", image_ids=photos.val_ids, on_photo=on_step) for predictor in predictors
    ]
    if found[0].mask.ap is None:
        raise ConfigError(f"{judges.path}: no object is labelled in the photos that shall judge a precision")
    spent_ms = alternate(predictors, timed, on_step)
    return tuple(
        Measured(
            precision=predictor.precision,
            proposals=predictor.cfg.MODEL.RPN.POST_NMS_TOPK_TEST,
            mask_ap=one.mask.ap or 0.0,
            box_ap=one.box.ap or 0.0,
            ms=round(float(np.median(ms)), 1),
            speed_up=round(float(np.median(spent_ms[0] / ms)), 2),
        )
        for predictor, one, ms in zip(predictors, found, spent_ms, strict=True)
    )


def _counted(on_step: OnStep, total: int) -> Callable[[], None]:
    done = itertools.count(1)
    return lambda: on_step(next(done), total)


def _candidates() -> tuple[list[Precision], dict[str, str]]:
    """What can run here, fp32 first, and why the others cannot."""
    device, left_out = pick_device("auto"), {}
    if not has_fast_bfloat16(device):
        left_out["bf16"] = "this machine does not calculate in it"
    if device != "cpu":
        left_out["int8"] = "it runs on the CPU, and this machine has a GPU"
    elif not is_installed():
        left_out["int8"] = f"OpenVINO and NNCF are not installed: {INSTALL}"
    return [name for name in PRECISIONS if name not in left_out], left_out


def _training_data(run: Path, data: Path | None) -> Dataset:
    """The data that the run was trained on. Raises ConfigError when it is not there, or other data."""
    facts = RunFolder(run).read_json("run.json")
    named = data or (Path(facts["data"]) if facts.get("data") else None)
    if named is None or (data is None and not named.exists()):
        gone = "run.json names no data" if named is None else f"its data {named} is not there"
        raise ConfigError(f"{run}: {gone}; name the dataset that it was trained on with --data")
    dataset = load_dataset(named)
    check_classes(run, RunFolder(run).load_classes(), dataset.train)
    if dataset.train.data_hash != facts.get("data_hash"):
        raise ConfigError(
            f"{named} is not the data that {run} was trained on (its data_hash differs from run.json's), so its photos "
            "cannot be told into those that trained and those that may judge; name the right one with --data, "
            "or train again"
        )
    return dataset


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
