"""Anchors that suit the boxes they are to find: k-means over the training boxes, with IoU as nearness.

    boxes at training size ─▶ each to its best anchor ─▶ sizes, aspect ratios ◀─ geometric means of their boxes ─▶ again

A pyramid level keeps one size and all levels share the ratios, so sizes and ratios are fitted in turn. The configured
anchors are the start, and a level that no box comes to keeps its size: large objects stay on coarse levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from numpy.typing import NDArray

from maskserve.protos.errors import ConfigError
from maskserve.training.resize import training_size

Floats = NDArray[np.float64]
ROUNDS = 50


def fit_anchors(cfg: CfgNode, records: Iterable[dict[str, Any]], *, say: Callable[[str], None]) -> CfgNode:
    """The config with anchors fitted to the records' boxes, frozen; unchanged where fitting brings nothing.

    Raises:
        ConfigError: the configured anchors are not one size for each level with shared ratios.
    """
    anchors = cfg.MODEL.ANCHOR_GENERATOR
    levels = len(cfg.MODEL.RPN.IN_FEATURES)
    if [len(sizes) for sizes in anchors.SIZES] != [1] * levels or len(anchors.ASPECT_RATIOS) != 1:
        raise ConfigError(
            f"MODEL.ANCHOR_GENERATOR.FIT: starts from one size for each of the {levels} levels of "
            f"MODEL.RPN.IN_FEATURES and one list of ratios; SIZES is {anchors.SIZES}, ASPECT_RATIOS "
            f"{anchors.ASPECT_RATIOS}"
        )
    boxes = training_boxes(cfg, records)
    start = np.ravel(anchors.SIZES).astype(float), np.ravel(anchors.ASPECT_RATIOS).astype(float)
    sizes, ratios = fit(boxes, *start)
    before, after = mean_best_iou(boxes, *start), mean_best_iou(boxes, sizes, ratios)
    say(
        f"anchors fitted to {len(boxes)} boxes: sizes {_listed(sizes)} px, height ÷ width {_listed(ratios)}; "
        f"mean best IoU {after:.3f}, before {before:.3f}"
    )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[size] for size in sizes.tolist()]
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [ratios.tolist()]
    cfg.freeze()
    return cfg


def training_boxes(cfg: CfgNode, records: Iterable[dict[str, Any]]) -> Floats:
    """(N, 2): width and height px of all boxes but crowds' and empty ones, in photos of the middle training size."""
    sizes = sorted(cfg.INPUT.MIN_SIZE_TRAIN)
    found = []
    for record in records:
        size = record["height"], record["width"]
        height, width = training_size(size, sizes[len(sizes) // 2], cfg.INPUT.MAX_SIZE_TRAIN)
        for annotation in record["annotations"]:
            if not annotation.get("iscrowd"):
                *_, box_w, box_h = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
                found.append((box_w * width / size[1], box_h * height / size[0]))
    boxes = np.reshape(np.array(found, float), (-1, 2))
    return boxes[(boxes > 0).all(axis=1)]


def fit(boxes: Floats, sizes: Floats, ratios: Floats) -> tuple[Floats, Floats]:
    """The best sizes (L,) px and ratios (R,), height ÷ width, met on the way from those given; rounded."""
    best = candidate = sizes, ratios
    for _ in range(ROUNDS):
        candidate = _step(boxes, *candidate)
        rounded = _rounded(candidate[0]), _rounded(candidate[1])
        if mean_best_iou(boxes, *rounded) <= mean_best_iou(boxes, *best):
            break
        best = rounded
    return best


def mean_best_iou(boxes: Floats, sizes: Floats, ratios: Floats) -> float:
    """Over all boxes (N, 2): the IoU with the anchor most like it, were both at the same place; 0 without boxes."""
    return float(_ious(boxes, sizes, ratios).max(axis=(1, 2)).mean()) if len(boxes) else 0.0


def _step(boxes: Floats, sizes: Floats, ratios: Floats) -> tuple[Floats, Floats]:
    ious = _ious(boxes, sizes, ratios).reshape(len(boxes), len(sizes) * len(ratios))
    level, shape = np.divmod(ious.argmax(axis=1), len(ratios))
    width, height = boxes.T
    return _means(np.sqrt(width * height), level, sizes), _means(height / width, shape, ratios)


def _means(values: Floats, groups: NDArray[np.intp], default: Floats) -> Floats:
    """The geometric mean of each group; an empty one keeps its default."""
    pairs = enumerate(default)
    return np.array([np.exp(np.log(values[groups == g]).mean()) if (groups == g).any() else old for g, old in pairs])


def _ious(boxes: Floats, sizes: Floats, ratios: Floats) -> Floats:
    """(N, L, R): IoU of boxes and anchors with a common centre; an anchor's area is its size squared."""
    width = sizes[:, None] / np.sqrt(ratios)
    height = sizes[:, None] * np.sqrt(ratios)
    both = np.minimum(boxes[:, 0, None, None], width) * np.minimum(boxes[:, 1, None, None], height)
    return np.asarray(both / (boxes.prod(axis=1)[:, None, None] + width * height - both))


def _rounded(values: Floats) -> Floats:
    return np.array([float(f"{value:.3g}") for value in values])


def _listed(values: Floats) -> str:
    return ", ".join(f"{value:g}" for value in values)
