"""In which precision an archive runs: as asked, or the fastest on this machine that costs little accuracy.

    training photos ─▶ int8 trunk ─┐
    validation photos ─────────────┴▶ fp32, bf16, int8: mask AP of each, ms of all in turns ─▶ choose ─▶ Choice

Each candidate is measured as the predictor that serves it. The photos that judge have neither trained the weights nor
set int8's ranges.
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

BUDGETS: Mapping[str, float] = {"fp32": 0.0, "bf16": 0.3, "int8": 1.0}
"""Points of mask AP (0..100) that a precision may lose against fp32."""
LEAST_SPEED_UP = 1.05
"""Below that, a less exact precision is not worth having; latencies are not measured more exactly either."""
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

    def budgets(self) -> dict[str, float]:
        asked = self.accuracy_budget
        return {name: most if asked is None or name == "fp32" else asked for name, most in BUDGETS.items()}


@dataclass(frozen=True, slots=True)
class Measured:
    """One precision on the validation photos, on this machine."""

    precision: Precision
    mask_ap: float
    """0..100"""
    box_ap: float
    ms: float
    """Median of a photo, decoded already."""
    speed_up: float
    """Median over photos of fp32's ms ÷ its own."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the choice of "auto" rests on."""

    rows: tuple[Measured, ...]
    """fp32 first."""
    left_out: Mapping[str, str]
    """Precision ─▶ why it was not measured."""
    budgets: Mapping[str, float]
    photos: str
    """Which photos judged, in words."""
    photo_count: int
    machine: str

    @property
    def few_photos(self) -> bool:
        return self.photo_count < FEW_PHOTOS

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "few_photos": self.few_photos}


@dataclass(frozen=True, slots=True)
class Choice:
    """The precision of an archive."""

    precision: Precision = "fp32"
    trunk: Path | None = None
    """trunk.xml of int8, trunk.bin beside it."""
    measurement: Measurement | None = None
    """None where the precision was asked for by name."""


def choose(rows: Sequence[Measured], budgets: Mapping[str, float]) -> Precision:
    """The fastest precision that loses no more mask AP than its budget and is worth it; else fp32.

    Args:
        rows: fp32 first.
        budgets: points of mask AP, see BUDGETS.
    """
    exact, *others = rows
    fit = [
        row
        for row in others
        # rounded as they are shown: 42.3 against 42.0 is within 0.3
        if round(exact.mask_ap - row.mask_ap, 2) <= budgets[row.precision] and row.speed_up >= LEAST_SPEED_UP
    ]
    return max(fit, key=lambda row: row.speed_up).precision if fit else exact.precision


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
        return Choice(check_precision(request.precision, pick_device("auto")))
    folder, photos = RunFolder(run), split(_training_data(run, request.data))
    with _threads(threads):
        if request.precision == "int8":
            step = _counted(on_step, min(CALIBRATION_PHOTOS, len(photos.records)))
            return Choice("int8", write_int8_trunk(_predictor(folder, device="cpu"), photos.records, scratch, step))
        return _fastest(folder, photos, request.budgets(), scratch, on_step)


def _fastest(folder: RunFolder, photos: Split, budgets: Mapping[str, float], scratch: Path, on_step: OnStep) -> Choice:
    judges = photos.val
    if judges is None:
        raise ConfigError(
            f"{folder.path}: no photos to judge a precision by: the data has no val.json and too few training photos "
            "to spare some; give it one, or choose the --precision yourself"
        )
    records = [one for one in dataset_dicts(judges) if photos.val_ids is None or one["image_id"] in photos.val_ids]
    keep_freed_memory()  # as a worker does: fresh memory costs fp32, whose activations are larger, more time
    candidates, left_out = _candidates()
    timed = spread(records, LATENCY_PHOTOS)
    calibrated = min(CALIBRATION_PHOTOS, len(photos.records)) if "int8" in candidates else 0
    step = _counted(on_step, calibrated + len(candidates) * len(records) + len(timed))
    predictors: dict[Precision, Predictor] = {}
    trunk: Path | None = None
    for name in candidates:
        if name == "int8":
            trunk = write_int8_trunk(predictors["fp32"], photos.records, scratch, step)
        predictors[name] = _predictor(folder, precision=name, trunk=trunk)
    rows = _measured(predictors, judges, photos, timed, step)
    chosen = choose(rows, budgets)
    which = "val.json" if photos.val_ids is None else "every tenth training photo, which did not train the weights"
    measurement = Measurement(rows, left_out, budgets, which, len(records), machine())
    return Choice(chosen, trunk if chosen == "int8" else None, measurement)


def _measured(
    predictors: Mapping[Precision, Predictor],
    judges: Manifest,
    photos: Split,
    timed: Sequence[Record],
    on_step: Callable[[], None],
) -> tuple[Measured, ...]:
    found = [
        evaluate(predictor, judges, split="val", image_ids=photos.val_ids, on_photo=on_step)
        for predictor in predictors.values()
    ]
    if found[0].mask.ap is None:
        raise ConfigError(f"{judges.path}: no object is labelled in the photos that shall judge a precision")
    spent_ms = alternate(list(predictors.values()), timed, on_step)
    return tuple(
        Measured(
            precision=name,
            mask_ap=one.mask.ap or 0.0,
            box_ap=one.box.ap or 0.0,
            ms=round(float(np.median(ms)), 1),
            speed_up=round(float(np.median(spent_ms[0] / ms)), 2),
        )
        for name, one, ms in zip(predictors, found, spent_ms, strict=True)
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


def _predictor(
    folder: RunFolder, *, precision: Precision = "fp32", trunk: Path | None = None, device: str = "auto"
) -> Predictor:
    return Predictor(
        folder.load_cfg(),
        folder.load_classes(),
        weights=folder.weights,
        device=device,
        precision=precision,
        trunk=trunk,
    )


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
