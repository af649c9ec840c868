"""What became of each labelled instance and of each answer on a photo, at one score threshold, by masks.

    answers above the threshold ─▶ COCOeval's matches at IoU 0.5 ─▶ found
                                     the rest, by IoU ≥ 0.5 with labels ─▶ doubled | wrong class | spurious

A match is COCOeval's own: the answers of a class, best score first, each take the free instance of that class with the
greatest IoU ≥ 0.5. A weaker answer never changes a stronger one's match, so the matches hold at any threshold. An
answer on a crowd of its class, or beyond COCO's hundred of a class on a photo, is left out; crowds are no instances.

The rest: an answer that covers an instance of its class (which another answer has) is doubled; else one that covers an
instance of another class is a wrong_class answer; else it is spurious. An instance that was not found is wrong_class
when such an answer covers it, else missed. So every instance and every answer is counted once.

Shape shorthand: `D` answers, `G` labelled instances of one photo.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

from maskserve.comparison.results import ArmName, Confusion

MIN_IOU = 0.5
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """Of one photo; classes are category ids."""

    label_classes: NDArray[np.int64]
    """(G,)"""
    found: Bools
    """(G,)"""
    wrong_class: Bools
    """(G,) found as another class only."""
    answer_classes: NDArray[np.int64]
    """(D,)"""
    right: Bools
    """(D,) found something."""
    doubled: Bools
    """(D,)"""
    wrong_class_answers: Bools
    """(D,)"""
    iou_sum: float
    """Over the found pairs."""

    @property
    def quality(self) -> float:
        """Σ IoU / (TP + FP/2 + FN/2), 0..1; 1 where nothing is labelled and nothing was answered."""
        instances, answers = len(self.found), len(self.right)
        return 2 * self.iou_sum / (instances + answers) if instances + answers else 1.0


def outcomes(run: COCOeval, score_threshold: float) -> dict[Any, Outcome]:
    """By image id, in the order of `run.params.imgIds`.

    Args:
        run: evaluated on masks (see `training.evaluate.matched`).
        score_threshold: answers below it count as not given.
    """
    taken: defaultdict[Any, list[tuple[int, int]]] = defaultdict(list)
    for photo in _everything(run):
        taken[photo["image_id"]] += _kept(photo, score_threshold)
    labels = run.cocoGt.imgToAnns
    return {id_: _outcome(run, [a for a in labels[id_] if not a["iscrowd"]], taken[id_]) for id_ in run.params.imgIds}


def _everything(run: COCOeval) -> Iterator[dict]:
    """The matches of each class and photo, of objects of all sizes."""
    all_sizes = run.params.areaRng[0]
    return (photo for photo in run.evalImgs if photo is not None and photo["aRng"] == all_sizes)


def _kept(photo: dict, score_threshold: float) -> list[tuple[int, int]]:
    """(answer id, id of the label that it found or 0) of the answers that count."""
    at_iou_50 = zip(photo["dtIds"], photo["dtMatches"][0], photo["dtIgnore"][0], photo["dtScores"], strict=True)
    return [(id_, int(label)) for id_, label, ignored, score in at_iou_50 if score >= score_threshold and not ignored]


def _outcome(run: COCOeval, labels: list[dict], pairs: list[tuple[int, int]]) -> Outcome:
    answers = run.cocoDt.loadAnns([answer for answer, _ in pairs])
    label_classes, answer_classes = (np.array([a["category_id"] for a in x], np.int64) for x in (labels, answers))
    iou = _ious(run, answers, labels)
    matches = np.array([match for _, match in pairs], np.int64)[:, None] == [[label["id"] for label in labels]]
    matches = matches.reshape(iou.shape)
    found, right = matches.any(axis=0), matches.any(axis=1)
    covers = iou >= MIN_IOU
    same = answer_classes[:, None] == label_classes
    doubled = ~right & (covers & same).any(axis=1)
    astray = ~right & ~doubled & (covers & ~same).any(axis=1)
    return Outcome(
        label_classes=label_classes,
        found=found,
        wrong_class=~found & (covers & ~same & astray[:, None]).any(axis=0),
        answer_classes=answer_classes,
        right=right,
        doubled=doubled,
        wrong_class_answers=astray,
        iou_sum=float(iou[matches].sum()),
    )


def _ious(run: COCOeval, answers: list[dict], labels: list[dict]) -> NDArray[np.float64]:
    """(D, G) of masks."""
    if not answers or not labels:
        return np.zeros((len(answers), len(labels)))
    masks = [run.cocoDt.annToRLE(a) for a in answers], [run.cocoGt.annToRLE(a) for a in labels]
    return np.asarray(coco_mask.iou(*masks, [0] * len(labels)))


def confusion(
    arm: ArmName, outcomes: Iterable[Outcome], categories: Sequence[tuple[int, str]]
) -> tuple[Confusion, ...]:
    """One entry for each class.

    Args:
        categories: (id, name) of the classes.
    """
    photos = list(outcomes)
    return tuple(_confusion(arm, photos, category_id, name) for category_id, name in categories)


def _confusion(arm: ArmName, photos: Sequence[Outcome], category_id: int, name: str) -> Confusion:
    def count(kind: str, classes: str) -> int:
        """How many labels or answers of the class have that outcome."""
        return sum(int((getattr(photo, kind) & (getattr(photo, classes) == category_id)).sum()) for photo in photos)

    labelled = sum(int((photo.label_classes == category_id).sum()) for photo in photos)
    answers = sum(int((photo.answer_classes == category_id).sum()) for photo in photos)
    found, wrong_class = count("found", "label_classes"), count("wrong_class", "label_classes")
    doubled, astray = count("doubled", "answer_classes"), count("wrong_class_answers", "answer_classes")
    return Confusion(
        arm=arm,
        class_name=name,
        labelled=labelled,
        answers=answers,
        found=found,
        wrong_class=wrong_class,
        missed=labelled - found - wrong_class,
        doubled=doubled,
        spurious=answers - found - doubled - astray,
        wrong_class_answers=astray,
    )
