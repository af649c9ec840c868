"""What a request and an answer are, free of protobuf. Shapes, frames and units are those of segmentation.proto.

Coordinates are pixels of the original image after EXIF orientation; sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

MaskFormat = Literal["rle", "none"]


class ErrorCode(StrEnum):
    """Why one image was not answered; the names of the proto's enum in lower case."""

    IMAGE_MISSING = "image_missing"
    IMAGE_UNSUPPORTED = "image_unsupported"
    IMAGE_UNREADABLE = "image_unreadable"
    IMAGE_TOO_LARGE = "image_too_large"
    OPTIONS_INVALID = "options_invalid"
    RESPONSE_TOO_LARGE = "response_too_large"
    INFERENCE_FAILED = "inference_failed"
    OUT_OF_MEMORY = "out_of_memory"


HTTP_STATUS: Mapping[ErrorCode, int] = {
    ErrorCode.IMAGE_MISSING: 400,
    ErrorCode.IMAGE_UNSUPPORTED: 415,
    ErrorCode.IMAGE_UNREADABLE: 422,
    ErrorCode.IMAGE_TOO_LARGE: 413,
    ErrorCode.OPTIONS_INVALID: 400,
    ErrorCode.RESPONSE_TOO_LARGE: 422,
    ErrorCode.INFERENCE_FAILED: 500,
    ErrorCode.OUT_OF_MEMORY: 503,
}
"""What each code is over HTTP, on TorchServe's own REST port and through the gateway."""


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """What the sender of one image may choose; `None` leaves the choice to the archive."""

    score_threshold: float | None = None
    """0..1; instances below it are left out."""
    max_instances: int | None = None
    """1..1000; the best-scored are kept."""
    mask_format: MaskFormat = "rle"
    class_names: tuple[str, ...] = ()
    """Only these classes; empty: all."""


@dataclass(frozen=True, slots=True)
class MaskRle:
    """COCO compressed RLE: column-major, of the whole image."""

    size: tuple[int, int]
    counts: str
    """ASCII, as pycocotools writes it."""


@dataclass(frozen=True, slots=True)
class Instance:
    class_id: int
    class_name: str
    score: float
    box_xyxy: tuple[float, float, float, float]
    area_px: int
    mask_rle: MaskRle | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """Fraction of the image that is masked, 0..1; overlapping pixels count once."""

    total: float = 0.0
    by_class: Mapping[str, float] = field(default_factory=dict)
    """Every class of the model is a key."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    name: str
    version: str
    backbone: str
    precision: str = "fp32"
    archive_digest: str = ""


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall time in the worker, ms; see the proto for what belongs to the image and what to the batch."""

    decode_ms: float = 0.0
    preprocess_ms: float = 0.0
    inference_ms: float = 0.0
    postprocess_ms: float = 0.0
    total_ms: float = 0.0
    batch_size: int = 1


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The answer for one image."""

    size: tuple[int, int]
    instances: tuple[Instance, ...]
    coverage: Coverage
    model: ModelInfo
    timings: Timings = Timings()
