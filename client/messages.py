"""Our values ─▶ TorchServe's request; TorchServe's texts ─▶ our values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from maskserve.client.errors import ContractDrifted, OutOfMemory, RequestTooLarge
from maskserve.protos import codec, inference_pb2, wire
from maskserve.protos.errors import RequestError
from maskserve.protos.types import ErrorCode, Segmentation, SegmentOptions


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A version of a model and its workers."""

    name: str
    version: str
    workers_ready: int
    workers_total: int


def prediction_request(image: bytes, model: str, version: str, options: SegmentOptions, request_id: str) -> Any:
    """The PredictionsRequest. Raises RequestError or RequestTooLarge for what need not be sent."""
    if not image:
        raise RequestError(ErrorCode.IMAGE_MISSING, "The image has no bytes; send a JPEG, PNG or WebP file.")
    if len(image) > wire.MAX_IMAGE_BYTES:
        text = (
            f"The image has {len(image) / 2**20:.1f} MiB; at most {wire.MAX_IMAGE_BYTES / 2**20:.1f} MiB are accepted."
        )
        raise RequestError(ErrorCode.IMAGE_TOO_LARGE, text)
    inputs = {wire.KEY_IMAGE: image, wire.KEY_OPTIONS: codec.encode_options(options)}
    if request_id:
        inputs[wire.KEY_REQUEST_ID] = request_id.encode()
    request = inference_pb2.PredictionsRequest(model_name=model, model_version=version, input=inputs)
    if request.ByteSize() > wire.MAX_MESSAGE_BYTES:
        raise RequestTooLarge(f"the request has {request.ByteSize()} bytes, the server takes {wire.MAX_MESSAGE_BYTES}")
    return request


def read_reply(reply: bytes, request_id: str) -> Segmentation:
    """The answer in a PredictionResponse. Raises RequestError as the worker did, OutOfMemory or ContractDrifted."""
    try:
        outcome, answered_id = codec.decode_reply(reply)
    except ValueError as error:
        raise ContractDrifted(f"the worker's answer cannot be read: {error}") from error
    if answered_id != request_id[: wire.MAX_REQUEST_ID_CHARS]:
        raise ContractDrifted(f"the answer is for request {answered_id!r}, not for {request_id!r}")
    if isinstance(outcome, RequestError):
        if outcome.code is ErrorCode.OUT_OF_MEMORY:  # the worker's lack, not the photo's fault
            raise OutOfMemory(outcome.message)
        raise outcome
    return outcome


def read_status(model: str, text: str) -> ModelStatus:
    """The first version in DescribeModel's JSON list."""
    try:
        version = json.loads(text)[0]
        workers = [worker["status"] for worker in version["workers"]]
        return ModelStatus(model, str(version["modelVersion"]), workers.count("READY"), len(workers))
    except (ValueError, LookupError, TypeError) as error:
        raise ContractDrifted(f"DescribeModel's answer cannot be read: {text[:120]!r}") from error
