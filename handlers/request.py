"""One row of TorchServe's batch ─▶ Envelope (who asks, how to answer) ─▶ Photo (pixels, options).

A row is a mapping. Over gRPC it has the keys of segmentation.proto, values as bytearray. Over TorchServe's own REST
API the photo is under `body` (curl -T photo.jpg) or `data` (curl -F data=@photo.jpg), whose form may have fields:
-F score_threshold=0.3 -F max_instances=5 -F mask_format=none -F "class_names=red panda, giant panda"
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np

from maskserve.imaging.decode import Size, decode_near
from maskserve.protos import codec, wire
from maskserve.protos.errors import RequestError
from maskserve.protos.types import ErrorCode, MaskFormat, SegmentOptions

N = TypeVar("N", int, float)
_REST_OPTIONS = ("score_threshold", "max_instances", "mask_format", "class_names")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What can be read from any row, however wrong the rest is."""

    request_id: str
    as_json: bool
    """True for TorchServe's REST API, which has no other way to show an answer to a person."""


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """An image that is ready for the model."""

    pixels: np.ndarray
    """uint8 (h, w, 3) RGB, upright; of a big JPEG fewer than it has."""
    size: Size
    """(height, width) of the original, px."""
    options: SegmentOptions
    decode_ms: float


def read_envelope(row: Mapping[str, Any]) -> Envelope:
    """Never raises. An id is echoed and logged, so it is cut to 200 characters."""
    request_id = _bytes(row.get(wire.KEY_REQUEST_ID)).decode("utf-8", "replace")[: wire.MAX_REQUEST_ID_CHARS]
    return Envelope(request_id, as_json=wire.KEY_IMAGE not in row)


def read_photo(row: Mapping[str, Any], seen_at: Callable[[Size], Size]) -> Photo:
    """The row's image, decoded once, and its options. Raises RequestError; options are checked before pixels.

    Args:
        row: of TorchServe's batch.
        seen_at: see `decode_near`.
    """
    options = _options(row)
    data = _image(row)
    start = time.perf_counter()
    pixels, size = decode_near(data, seen_at)
    return Photo(pixels, size, options, decode_ms=(time.perf_counter() - start) * 1000)


def _image(row: Mapping[str, Any]) -> bytes:
    value = next((row[key] for key in (wire.KEY_IMAGE, *wire.REST_KEYS) if key in row), None)
    if value is None:
        raise RequestError(
            ErrorCode.IMAGE_MISSING,
            f"The request has no image. Over gRPC put its bytes under {wire.KEY_IMAGE!r}; over REST use "
            "curl -T photo.jpg, or curl -F data=@photo.jpg.",
        )
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    # TorchServe has parsed a body that called itself JSON or text
    raise RequestError(
        ErrorCode.IMAGE_UNSUPPORTED, "The body is JSON or text, not an image; send the file's bytes as they are."
    )


def _options(row: Mapping[str, Any]) -> SegmentOptions:
    if wire.KEY_IMAGE in row:
        return codec.decode_options(_bytes(row.get(wire.KEY_OPTIONS)))
    given = {key: _bytes(row[key]).decode("utf-8", "replace") for key in _REST_OPTIONS if key in row}
    return codec.validate_options(
        SegmentOptions(
            score_threshold=_number(given, "score_threshold", float),
            max_instances=_number(given, "max_instances", int),
            mask_format=cast(MaskFormat, given.get("mask_format", "rle")),
            class_names=tuple(name.strip() for name in given.get("class_names", "").split(",") if name.strip()),
        )
    )


def _number(given: Mapping[str, str], name: str, kind: Callable[[str], N]) -> N | None:
    try:
        return kind(given[name]) if name in given else None
    except ValueError:
        raise RequestError(ErrorCode.OPTIONS_INVALID, f"{name} must be a number", name) from None


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else b""
