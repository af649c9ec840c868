"""types ◀─▶ protobuf bytes, and types ─▶ JSON. The only module that touches the generated message classes."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from google.protobuf.message import DecodeError

from maskserve.protos import segmentation_pb2 as pb
from maskserve.protos.errors import RequestError
from maskserve.protos.types import (
    Coverage,
    ErrorCode,
    Instance,
    MaskFormat,
    MaskRle,
    ModelInfo,
    Segmentation,
    SegmentOptions,
    Timings,
)

_MASK_FORMATS: dict[MaskFormat, pb.MaskFormat] = {"rle": pb.MASK_FORMAT_RLE, "none": pb.MASK_FORMAT_NONE}
_MASK_FORMAT_NAMES: dict[int, MaskFormat] = {number: name for name, number in _MASK_FORMATS.items()}
_MASK_FORMAT_NAMES[pb.MASK_FORMAT_UNSPECIFIED] = "rle"
_MAX_INSTANCES = 1000


def validate_options(options: SegmentOptions) -> SegmentOptions:
    """`options`, or RequestError(OPTIONS_INVALID) naming the field that is out of range."""
    threshold, most = options.score_threshold, options.max_instances
    if threshold is not None and not (math.isfinite(threshold) and 0 <= threshold <= 1):
        raise _invalid("score_threshold", f"must be between 0 and 1, not {threshold:g}")
    if most is not None and not 1 <= most <= _MAX_INSTANCES:
        raise _invalid("max_instances", f"must be between 1 and {_MAX_INSTANCES}, not {most}")
    if options.mask_format not in _MASK_FORMATS:
        raise _invalid("mask_format", f"must be one of {', '.join(_MASK_FORMATS)}, not {options.mask_format!r}")
    return options


def encode_options(options: SegmentOptions) -> bytes:
    """A serialised SegmentOptions. Raises RequestError(OPTIONS_INVALID)."""
    validate_options(options)
    return pb.SegmentOptions(
        score_threshold=options.score_threshold,
        max_instances=options.max_instances,
        mask_format=_MASK_FORMATS[options.mask_format],
        class_names=options.class_names,
    ).SerializeToString()


def decode_options(data: bytes) -> SegmentOptions:
    """The options that `data` serialises; b"" is the defaults. Raises RequestError(OPTIONS_INVALID)."""
    try:
        message = pb.SegmentOptions.FromString(data)
    except DecodeError:
        raise _invalid("options", "is not a serialised maskserve.v1.SegmentOptions") from None
    if message.mask_format not in _MASK_FORMAT_NAMES:
        raise _invalid("mask_format", f"has no value {message.mask_format}")
    return validate_options(
        SegmentOptions(
            score_threshold=message.score_threshold if message.HasField("score_threshold") else None,
            max_instances=message.max_instances if message.HasField("max_instances") else None,
            mask_format=_MASK_FORMAT_NAMES[message.mask_format],
            class_names=tuple(message.class_names),
        )
    )


def encode_reply(outcome: Segmentation | RequestError, request_id: str = "") -> bytes:
    """A serialised SegmentReply for one image."""
    reply = pb.SegmentReply(request_id=request_id)
    if isinstance(outcome, RequestError):
        reply.error.CopyFrom(pb.Error(code=outcome.code.name, message=outcome.message, field=outcome.field))
    else:
        reply.segmentation.CopyFrom(_segmentation_to_message(outcome))
    return reply.SerializeToString()


def decode_reply(data: bytes) -> tuple[Segmentation | RequestError, str]:
    """(outcome, request id). Raises ValueError when `data` is no SegmentReply or has no outcome."""
    try:
        reply = pb.SegmentReply.FromString(data)
    except DecodeError as error:
        raise ValueError("the answer is not a serialised maskserve.v1.SegmentReply") from error
    match reply.WhichOneof("outcome"):
        case "segmentation":
            return _segmentation_from_message(reply.segmentation), reply.request_id
        case "error":
            code = ErrorCode[pb.ErrorCode.Name(reply.error.code)]
            return RequestError(code, reply.error.message, reply.error.field), reply.request_id
        case _:
            raise ValueError("the answer is a SegmentReply without an outcome")


def segmentation_to_json(segmentation: Segmentation) -> dict[str, Any]:
    """The answer as JSON types, in the shape that the REST API documents; sizes are [height, width]."""
    # by hand: dataclasses.asdict took half of the gateway's time for a request
    cover, timings = segmentation.coverage, segmentation.timings
    return {
        "size": list(segmentation.size),
        "instances": [_instance_to_json(instance) for instance in segmentation.instances],
        "coverage": {"total": cover.total, "by_class": dict(sorted(cover.by_class.items()))},
        "model": _fields(segmentation.model),
        "timings": {name: round(value, 2) for name, value in _fields(timings).items()},
    }


def error_to_json(error: RequestError) -> dict[str, Any]:
    """One image's error as JSON types."""
    return {"error": {"code": str(error.code), "message": error.message, "field": error.field}}


def _instance_to_json(instance: Instance) -> dict[str, Any]:
    mask = instance.mask_rle
    return {
        "class_id": instance.class_id,
        "class_name": instance.class_name,
        "score": round(instance.score, 4),
        "box_xyxy": [round(value, 2) for value in instance.box_xyxy],
        "area_px": instance.area_px,
        "mask_rle": {"size": list(mask.size), "counts": mask.counts} if mask else None,
    }


def _fields(values: ModelInfo | Timings) -> dict[str, Any]:
    """As `dataclasses.asdict`, one level deep."""
    return {name: getattr(values, name) for name in values.__dataclass_fields__}


def _invalid(field: str, text: str) -> RequestError:
    return RequestError(ErrorCode.OPTIONS_INVALID, f"{field} {text}", field)


def _segmentation_to_message(segmentation: Segmentation) -> pb.Segmentation:
    height, width = segmentation.size
    return pb.Segmentation(
        height=height,
        width=width,
        instances=[_instance_to_message(instance) for instance in segmentation.instances],
        coverage=pb.Coverage(total=segmentation.coverage.total, by_class=dict(segmentation.coverage.by_class)),
        model=pb.Model(**asdict(segmentation.model)),
        timings=pb.Timings(**asdict(segmentation.timings)),
    )


def _instance_to_message(instance: Instance) -> pb.Instance:
    return pb.Instance(
        class_id=instance.class_id,
        class_name=instance.class_name,
        score=instance.score,
        box_xyxy=instance.box_xyxy,
        mask_rle_counts=instance.mask_rle.counts if instance.mask_rle else "",
        area_px=instance.area_px,
    )


def _segmentation_from_message(message: pb.Segmentation) -> Segmentation:
    size = (message.height, message.width)
    timings = message.timings
    return Segmentation(
        size=size,
        instances=tuple(_instance_from_message(instance, size) for instance in message.instances),
        coverage=Coverage(message.coverage.total, dict(message.coverage.by_class)),
        model=ModelInfo(*(getattr(message.model, name) for name in ModelInfo.__dataclass_fields__)),
        timings=Timings(*(getattr(timings, name) for name in Timings.__dataclass_fields__)),
    )


def _instance_from_message(message: pb.Instance, size: tuple[int, int]) -> Instance:
    box_xyxy, counts = tuple(message.box_xyxy), message.mask_rle_counts
    if len(box_xyxy) != 4:
        raise ValueError(f"an instance's box_xyxy has {len(box_xyxy)} numbers, not 4")
    return Instance(
        class_id=message.class_id,
        class_name=message.class_name,
        score=message.score,
        box_xyxy=box_xyxy,
        area_px=message.area_px,
        mask_rle=MaskRle(size, counts) if counts else None,
    )
