"""The statistics of two arms on the same labelled photos.

results of an arm ─▶ COCOeval's matches ┬▶ AP, and its paired bootstrap over photos ─▶ rows
                                        ├▶ precision–recall curves
                                        ├▶ calibration
                                        └▶ outcomes at a score threshold ─▶ confusion, each photo's quality
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskserve.comparison.average_precision import IOU_50, IOU_75, Matches, matches_of, precision_curve
from maskserve.comparison.calibration import calibration
from maskserve.comparison.outcomes import Outcome, confusion, outcomes
from maskserve.comparison.paired_bootstrap import ArmAp, arm_ap, draw, rows
from maskserve.comparison.results import ALL_CLASSES, ARM_NAMES, ArmName, Curve, Kind, Photo, Statistics
from maskserve.protos.errors import DataError
from maskserve.training.datasets.coco import read_coco
from maskserve.training.datasets.manifest import Manifest
from maskserve.training.datasets.photos import content_hash
from maskserve.training.evaluate import KINDS, category_ids, ground_truth, matched

Results = Sequence[Mapping[str, Any]]


def compute_statistics(
    manifest: Manifest,
    results_a: Results,
    results_b: Results,
    *,
    split: str,
    image_ids: Collection[Any] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    score_threshold: float = 0.5,
    on_progress: Callable[[float], None] = lambda _share: None,
) -> Statistics:
    """Everything that the answers of two arms to the same photos say about their accuracy.

    Args:
        results_a, results_b: see `training.evaluate.coco_results`; answers to other photos are passed over.
        image_ids: the photos to look at; None for all of the manifest.
        resamples: of the bootstrap, at least 1.
        score_threshold: 0..1, for confusion and the photos' quality.
        on_progress: is told the share that is done, 0..1.

    Raises:
        DataError: the manifest has none of these photos.
    """
    truth = _truth(manifest, image_ids)
    photos, names = truth.dataset["images"], manifest.class_names
    weights = draw(len(photos), resamples, seed)
    step = _steps(len(KINDS) * len(ARM_NAMES) * (1 + len(names)), on_progress)
    runs: dict[str, list[COCOeval]] = {kind: [] for kind in KINDS}
    arms: dict[str, list[ArmAp]] = {kind: [] for kind in KINDS}
    for kind in KINDS:
        for results in (results_a, results_b):
            run = matched(truth, [result for result in results if result["image_id"] in truth.imgs], kind)
            step()
            runs[kind].append(run)
            arms[kind].append(arm_ap(_by_class(run, manifest), weights, on_class=step))
    became = [outcomes(run, score_threshold) for run in runs["segm"]]
    ids = list(zip(category_ids(manifest), names, strict=True))
    return Statistics(
        split=split,
        data=str(manifest.path),
        data_hash=content_hash(manifest.path.read_bytes()),
        image_count=len(photos),
        instances=dict(zip(names, arms["segm"][0].instances[:, 0].tolist(), strict=True)),
        score_threshold=score_threshold,
        resamples=resamples,
        seed=seed,
        box=_kind(arms["bbox"], names),
        mask=_kind(arms["segm"], names),
        confusion=tuple(
            entry for arm, of in zip(ARM_NAMES, became, strict=True) for entry in confusion(arm, of.values(), ids)
        ),
        calibration=tuple(
            calibration(name, [by_area[0] for by_area in arm.matches])
            for name, arm in zip(ARM_NAMES, arms["segm"], strict=True)
        ),
        photos=tuple(_photo(photo, *(of[photo["id"]] for of in became)) for photo in photos),
    )


def _truth(manifest: Manifest, image_ids: Collection[Any] | None) -> COCO:
    known = {image["id"] for image in read_coco(manifest.path)["images"]}
    truth = ground_truth(manifest, known if image_ids is None else known.intersection(image_ids))
    if not truth.imgs:
        raise DataError(f"{manifest.path} has none of the photos asked for; name photos of this file, or none for all")
    return truth


def _steps(total: int, on_progress: Callable[[float], None]) -> Callable[[], None]:
    """To be called `total` times."""
    done: Iterator[int] = iter(range(1, total + 1))
    return lambda: on_progress(next(done) / total)


def _by_class(run: COCOeval, manifest: Manifest) -> list[list[Matches]]:
    """Matches of the classes in the manifest's order, which need not be that of their ids."""
    by_id = dict(zip(run.params.catIds, matches_of(run), strict=True))
    return [by_id[category_id] for category_id in category_ids(manifest)]


def _kind(arms: Sequence[ArmAp], class_names: Sequence[str]) -> Kind:
    curves = [
        curve
        for arm, ap in zip(ARM_NAMES, arms, strict=True)
        for iou, place in ((0.5, IOU_50), (0.75, IOU_75))
        for curve in _curves(arm, iou, [precision_curve(by_area[0], place) for by_area in ap.matches], class_names)
    ]
    a, b = arms
    return Kind(rows(a, b, class_names), tuple(curves))


def _curves(arm: ArmName, iou: float, found: Sequence[np.ndarray | None], class_names: Sequence[str]) -> list[Curve]:
    """The mean over classes, then each class; a class without instances has none."""
    known = [(name, curve) for name, curve in zip(class_names, found, strict=True) if curve is not None]
    if not known:
        return []
    mean = np.mean([curve for _, curve in known], axis=0)
    return [Curve(arm, name, iou, tuple(curve.tolist())) for name, curve in [(ALL_CLASSES, mean), *known]]


def _photo(image: Mapping[str, Any], a: Outcome, b: Outcome) -> Photo:
    return Photo(image["id"], str(image["file_name"]), len(a.found), a.quality, b.quality)
