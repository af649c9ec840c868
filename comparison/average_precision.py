"""COCO's average precision of many resamples of the photos at once, from pycocotools' matches.

    COCOeval.evalImgs ─▶ Matches of a class and size, best answer first
                           × weights: how often each photo is in each resample ─▶ AP of each resample

Matches are made within a photo, so a photo that is drawn twice just counts twice. Two things keep that cheap:

- Interpolated precision is only ever read where an answer is right; the answers between two right ones, which are
  most, matter by their number alone.
- Resamples lie along the last axis, where numpy adds and compares whole rows.

Answers with equal scores keep the photos' order, as in pycocotools; then the AP of a resample is that of a data set
whose photos are really duplicated. (Equal scores within a photo that is drawn twice can fall differently there.)

Shape shorthand: `D` answers, `K` right answers, `N` photos, `R` resamples, `T` the ten IoU thresholds 0.50:0.05:0.95.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import COCOeval

Area = Literal["all", "small", "medium", "large"]
AREAS: tuple[Area, ...] = ("all", "small", "medium", "large")
"""COCO's sizes, in COCOeval's order."""
RECALLS = np.linspace(0, 1, 101)
IOU_50, IOU_75 = 0, 5
"""Places among the IoU thresholds."""
AT_ONCE = 128
"""Resamples whose precisions stay in the processor's cache."""

Floats = NDArray[np.float64]
Weights = NDArray[np.float32]


@dataclass(frozen=True)
class Matches:
    """The answers of one class, best score first, and what COCOeval matched them with, for objects of one size."""

    photos: NDArray[np.intp]
    """(D,) the place of each answer's photo among the N."""
    scores: Floats
    """(D,) 0..1, falling."""
    right: NDArray[np.bool_]
    """(T, D) matches an instance that counts."""
    counts: NDArray[np.bool_]
    """(T, D) is right or wrong; False when COCO ignores it: on a crowd, or of another size."""
    labelled: Weights
    """(N,) instances that count."""


def matches_of(run: COCOeval) -> list[list[Matches]]:
    """By class, in the order of `run.params.catIds`, then by AREAS; photos in the order of `run.params.imgIds`."""
    photo_count = len(run.params.imgIds)
    every = [run.evalImgs[start : start + photo_count] for start in range(0, len(run.evalImgs), photo_count)]
    by_area = [_matches(photos, len(run.params.iouThrs)) for photos in every]
    return [by_area[start : start + len(AREAS)] for start in range(0, len(by_area), len(AREAS))]


def _matches(photos: list[dict | None], thresholds: int) -> Matches:
    """Of one class and size; None stands for a photo with neither answers nor instances of the class."""
    known = [(index, photo) for index, photo in enumerate(photos) if photo is not None]
    scores = np.concatenate([np.zeros(0), *(photo["dtScores"] for _, photo in known)])
    order = np.argsort(-scores, kind="mergesort")
    none = np.zeros((thresholds, 0), bool)
    matched = np.concatenate([none, *(photo["dtMatches"] > 0 for _, photo in known)], axis=1)[:, order]
    ignored = np.concatenate([none, *(photo["dtIgnore"] for _, photo in known)], axis=1)[:, order]
    labelled = np.zeros(len(photos), np.float32)
    for index, photo in known:
        labelled[index] = np.count_nonzero(photo["gtIgnore"] == 0)
    return Matches(
        photos=np.repeat([index for index, _ in known], [len(photo["dtScores"]) for _, photo in known])[order].astype(
            int
        ),
        scores=scores[order],
        right=matched & ~ignored,
        counts=~ignored,
        labelled=labelled,
    )


def average_precision(matches: Matches, weights: Weights) -> Floats:
    """AP, 0..1, at each IoU threshold in each resample: (T, R); NaN where a resample has no instance of the class.

    Args:
        weights: (N, R) how often each photo is in each resample; whole numbers.
    """
    result = np.full((len(matches.right), weights.shape[1]), np.nan)
    for start in range(0, weights.shape[1], AT_ONCE):
        some = weights[:, start : start + AT_ONCE]
        labelled = matches.labelled @ some
        for place in range(len(result)):
            precision, recalls = _interpolated(matches, place, some, np.maximum(labelled, 1))
            mean = (precision * recalls).sum(axis=0) / len(RECALLS)
            result[place, start : start + AT_ONCE] = np.where(labelled > 0, mean, np.nan)
    return result


def precision_curve(matches: Matches, place: int) -> Floats | None:
    """Interpolated precision, 0..1, at RECALLS: (101,); 0 at recalls that are never reached. None without instances.

    Args:
        place: of the IoU threshold, 0..T-1.
    """
    if not matches.labelled.any():
        return None
    weights = np.ones((len(matches.labelled), 1), np.float32)
    precision, recalls = _interpolated(matches, place, weights, matches.labelled @ weights)
    reached = np.repeat(precision[:, 0], recalls[:, 0])
    return np.pad(reached, (0, len(RECALLS) - len(reached)))


def _interpolated(matches: Matches, place: int, weights: Weights, labelled: Weights) -> tuple[Floats, NDArray[np.intp]]:
    """At each right answer: the best precision from it on, and how many of RECALLS it is the first to reach; (K, R)."""
    hits = np.flatnonzero(matches.right[place])
    found = weights[matches.photos[hits]].cumsum(axis=0, dtype=np.float64)
    precision = found / (_answers_until(matches, place, hits, weights) + np.spacing(1))
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = found / labelled
    nearest = np.rint(recall * (len(RECALLS) - 1)).astype(np.intp)
    reached = nearest + (RECALLS[nearest] <= recall)
    return best, np.diff(reached, axis=0, prepend=0)


def _answers_until(matches: Matches, place: int, hits: NDArray[np.intp], weights: Weights) -> Weights:
    """How many answers that count come up to and with each right one: (K, R); exact below 2²⁴."""
    counted = np.flatnonzero(matches.counts[place])
    # right answers count themselves, so each step from one to the next holds an answer
    ends = np.searchsorted(counted, hits, side="right")
    if not len(hits):
        return np.zeros((0, weights.shape[1]), np.float32)
    steps = np.add.reduceat(weights[matches.photos[counted[: ends[-1]]]], np.r_[0, ends[:-1]], axis=0)
    return steps.cumsum(axis=0)
