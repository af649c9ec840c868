"""Answer ─▶ bytes: a SegmentReply, or JSON for TorchServe's REST API; never more than MAX_REPLY_BYTES.

A reply above TorchServe's limit kills the worker together with its batch, so a long one is replaced by an error.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from maskserve.handlers.batch import Answer, guarded
from maskserve.handlers.request import Envelope
from maskserve.handlers.telemetry import log_event
from maskserve.protos import wire
from maskserve.protos.codec import encode_reply, error_to_json, segmentation_to_json
from maskserve.protos.errors import RequestError
from maskserve.protos.types import HTTP_STATUS, ErrorCode, Segmentation


def pack(answer: Answer) -> tuple[Answer, bytes]:
    """The reply's bytes, and the answer that they carry: `answer`, or an error when it is too long."""
    data = guarded(encode, answer.outcome, answer.envelope)
    if not isinstance(data, RequestError) and len(data) <= wire.MAX_REPLY_BYTES:
        return answer, data
    answer = replace(answer, outcome=data if isinstance(data, RequestError) else _too_large(len(data)))
    return answer, encode(answer.outcome, answer.envelope)


def announce(answer: Answer, context: Any, index: int) -> None:
    """What stands outside the bytes of row `index`: a REST caller's status and content type; an error's log line."""
    outcome = answer.outcome
    if isinstance(outcome, RequestError):
        log_event("image_failed", code=outcome.code, request_id=answer.envelope.request_id)
    if answer.envelope.as_json:
        context.set_response_content_type(index, "application/json")
        if isinstance(outcome, RequestError):
            context.set_response_status(HTTP_STATUS[outcome.code], str(outcome.code), index)


def encode(outcome: Segmentation | RequestError, envelope: Envelope) -> bytes:
    """The outcome in the form that its sender reads."""
    if not envelope.as_json:
        return encode_reply(outcome, envelope.request_id)
    body = segmentation_to_json(outcome) if isinstance(outcome, Segmentation) else error_to_json(outcome)
    return json.dumps(body).encode() + b"\n"


def _too_large(size: int) -> RequestError:
    return RequestError(
        ErrorCode.RESPONSE_TOO_LARGE,
        f"The answer has {size / 2**20:.1f} MiB, at most {wire.MAX_REPLY_BYTES / 2**20:.1f} are sent; "
        "ask for fewer instances, a higher score threshold, or no masks.",
    )
