"""From what the model found to the answer of the contract: options applied, masks pasted and encoded, areas, coverage.

    Prediction ─▶ chosen (threshold, classes, maximum) ─▶ masks as COCO RLE of the whole image ─▶ Segmentation

The handler, the evaluation and the command line share it, so that they speak of the same pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from maskserve.imaging.masks import coverage
from maskserve.modeling.paste import paste_masks
from maskserve.modeling.predictor import Prediction
from maskserve.protos.errors import RequestError
from maskserve.protos.types import ErrorCode, Instance, MaskRle, ModelInfo, Segmentation, SegmentOptions


def to_segmentation(
    prediction: Prediction,
    options: SegmentOptions,
    class_names: Sequence[str],
    model: ModelInfo,
    default_score_threshold: float = 0.5,
) -> Segmentation:
    """The answer for one image; timings are left to the caller (`dataclasses.replace`).

    Args:
        prediction: what the model found, best score first.
        options: of the image's sender; its score threshold cannot go below what the model itself keeps.
        class_names: the model's, by class id.
        model: echoed in the answer.
        default_score_threshold: 0..1, for options without a threshold.

    Raises:
        RequestError: OPTIONS_INVALID (field `class_names`) when an option names a class the model does not have.
    """
    chosen = choose(prediction, options, class_names, default_score_threshold)
    pasted = paste_masks(prediction.mask_probs[chosen], prediction.boxes_xyxy[chosen], prediction.size)
    found = tuple(_instance(prediction, index, class_names, *mask) for index, mask in zip(chosen, pasted, strict=True))
    covered = coverage(found, prediction.size, class_names)
    if options.mask_format == "none":
        found = tuple(replace(instance, mask_rle=None) for instance in found)
    return Segmentation(size=prediction.size, instances=found, coverage=covered, model=model)


def choose(
    prediction: Prediction, options: SegmentOptions, class_names: Sequence[str], default_score_threshold: float = 0.5
) -> list[int]:
    """Indices of the instances that the options let through, best score first; raises as `to_segmentation`."""
    unknown = [name for name in options.class_names if name not in class_names]
    if unknown:
        raise RequestError(
            ErrorCode.OPTIONS_INVALID,
            f"unknown class {unknown[0]!r}; this model knows {', '.join(class_names)}",
            field="class_names",
        )
    threshold = default_score_threshold if options.score_threshold is None else options.score_threshold
    keep = prediction.scores >= threshold
    if options.class_names:
        wanted = [class_id for class_id, name in enumerate(class_names) if name in options.class_names]
        keep &= np.isin(prediction.class_ids, wanted)
    return [int(index) for index in np.flatnonzero(keep)[: options.max_instances]]


def _instance(
    prediction: Prediction, index: int, class_names: Sequence[str], mask_rle: MaskRle, area_px: int
) -> Instance:
    class_id = int(prediction.class_ids[index])
    left, top, right, bottom = (float(value) for value in prediction.boxes_xyxy[index])
    return Instance(
        class_id=class_id,
        class_name=class_names[class_id],
        score=float(prediction.scores[index]),
        box_xyxy=(left, top, right, bottom),
        area_px=area_px,
        mask_rle=mask_rle,
    )
