"""Answers of the arms ─▶ the JSON bodies and headers of the REST API, in the shape of schemas.py."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from maskserve.gateway.dispatch import Answer
from maskserve.gateway.matching import coverage_difference, match_instances
from maskserve.imaging.rle import rle_iou, rle_to_polygons
from maskserve.protos.codec import segmentation_to_json
from maskserve.protos.types import Coverage, MaskRle

RestMaskFormat = Literal["rle", "polygon", "none"]

_CLASSES_IN_HEADERS = 32
"""Python's HTTP libraries take 100 headers of an answer, nginx 4 KiB of them unless told otherwise."""


def prediction_json(answer: Answer, mask_format: RestMaskFormat) -> dict[str, Any]:
    """One arm's answer; the request's own members (`request_id`, `gateway_ms`) are the caller's to add."""
    body = segmentation_to_json(answer.segmentation)
    for instance, typed in zip(body["instances"], answer.segmentation.instances, strict=True):
        mask: MaskRle | None = typed.mask_rle
        if mask_format != "rle":
            del instance["mask_rle"]
        if mask_format == "polygon":
            instance["mask_polygons"] = rle_to_polygons(mask) if mask else []
    return {
        "arm": answer.arm,
        "reason": str(answer.reason),
        "fallback_from": answer.fallback_from,
        **body,
        "call_ms": round(answer.call_ms, 1),
    }


def comparison_json(left: Answer, right: Answer, mask_format: RestMaskFormat) -> dict[str, Any]:
    """Both arms' answers and how they differ; `*_difference` is right minus left. Masks must be there."""
    one, other = left.segmentation, right.segmentation
    matching = match_instances(one.instances, other.instances, rle_iou)
    mean = matching.mean_mask_iou
    return {
        "left": prediction_json(left, mask_format),
        "right": prediction_json(right, mask_format),
        "matches": [
            {
                "left": match.left,
                "right": match.right,
                "class_name": one.instances[match.left].class_name,
                "mask_iou": round(match.mask_iou, 4),
                "score_difference": round(other.instances[match.right].score - one.instances[match.left].score, 4),
            }
            for match in matching.matches
        ],
        "only_left": list(matching.only_left),
        "only_right": list(matching.only_right),
        "mean_mask_iou": None if mean is None else round(mean, 4),
        "coverage_difference": {
            "total": other.coverage.total - one.coverage.total,
            "by_class": coverage_difference(one, other),
        },
        "latency_difference_ms": {
            "call": round(right.call_ms - left.call_ms, 1),
            "inference": round(other.timings.inference_ms - one.timings.inference_ms, 1),
            "total": round(other.timings.total_ms - one.timings.total_ms, 1),
        },
    }


def prediction_headers(answer: Answer) -> dict[str, str]:
    """Which arm, model, version and why, and how much of the photo is covered: for callers who get a picture."""
    segmentation = answer.segmentation
    return {
        "X-Maskserve-Arm": answer.arm,
        "X-Maskserve-Model": segmentation.model.name,
        "X-Maskserve-Model-Version": segmentation.model.version,
        "X-Maskserve-Reason": str(answer.reason),
        **({"X-Maskserve-Fallback-From": answer.fallback_from} if answer.fallback_from else {}),
        "X-Maskserve-Instances": str(len(segmentation.instances)),
        **_coverage_headers(segmentation.coverage),
    }


def server_timing(stages: Mapping[str, float]) -> str:
    """A Server-Timing header: browsers show it in their network panel."""
    return ", ".join(f"{name};dur={milliseconds:.1f}" for name, milliseconds in stages.items())


def worker_stages(answer: Answer) -> dict[str, float]:
    timings = answer.segmentation.timings
    return {
        "decode": timings.decode_ms,
        "preprocess": timings.preprocess_ms,
        "inference": timings.inference_ms,
        "postprocess": timings.postprocess_ms,
        "call": answer.call_ms,
    }


def _coverage_headers(coverage: Coverage) -> dict[str, str]:
    headers = {"X-Maskserve-Coverage": f"{coverage.total:.6f}"}
    told = sorted(coverage.by_class, key=lambda name: (-coverage.by_class[name], name))[:_CLASSES_IN_HEADERS]
    for number, (name, fraction) in enumerate(sorted(coverage.by_class.items())):  # as in JSON; maps have no order
        if name not in told:
            continue
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        header = f"X-Maskserve-Coverage-{slug or number}"
        # two names with the same letters, or a name without any
        headers[f"{header}-{number}" if header in headers else header] = f"{fraction:.6f}"
    return headers
