"""Whatever went wrong ─▶ an RFC 9457 problem: a stable code, our own words, an honest status.

RequestError   the sender's      400, 413, 415, 422 (or 502, 503 when the worker says that it failed)
ServerError    the server's      502, 503 + Retry-After, 504; TorchServe's own texts never leave the gateway
HTTPException  Flask's           404, 405, 413, …
anything else  a bug             500, with the traceback in the log under the same request id
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from flask import Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from maskserve.client.errors import ServerError
from maskserve.protos import wire
from maskserve.protos.errors import RequestError
from maskserve.protos.types import HTTP_STATUS, ErrorCode

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2

SERVER_TEXTS: Mapping[str, tuple[int, str]] = {
    "worker_died": (
        503,
        "The model's worker stopped while it had this photo. Try again in a few seconds; a photo that has stopped it "
        "twice is refused for ten minutes.",
    ),
    "handler_failed": (502, "The model failed on this photo. The server's log says why, under this request id."),
    "out_of_memory": (503, "The model's worker is out of memory. Try again, or send a smaller photo."),
    "overloaded": (503, "The model is not ready or has too much to do. Try again in a few seconds."),
    "model_not_found": (503, "The model of this arm is not loaded. `maskserve up` loads it; see GET /v1/models."),
    "unauthorized": (503, "The gateway's token was refused by the model server. Its operator must renew it."),
    "request_too_large": (413, "The photo is too large for the model server. Send a smaller one."),
    "reply_too_large": (502, "The answer is too large. Ask for fewer instances or for no masks."),
    "timeout": (504, "The model did not answer in time. Try again, or send a smaller photo."),
    "unavailable": (503, "The model server cannot be reached. Try again in a few seconds."),
}
_UNKNOWN_SERVER_FAULT = (502, "The model server gave an answer that the gateway does not understand.")


@dataclass(eq=False)
class Problem(Exception):  # noqa: N818 — RFC 9457's name
    """An answer that is not the one asked for."""

    status: int
    code: str
    detail: str
    parameter: str = ""
    """The parameter or form field at fault, or ""."""
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further members, e.g. the arm that was asked."""

    def to_json(self, request_id: str) -> dict[str, Any]:
        return {
            "type": f"urn:maskserve:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "request_id": request_id,
            **({"field": self.parameter} if self.parameter else {}),
            **self.more,
        }


def invalid(field_name: str, detail: str, code: str = "parameter_invalid") -> Problem:
    """A 400 about one parameter."""
    return Problem(400, code, detail, field_name)


def unavailable(code: str, detail: str, arm: str = "", retry_after_s: int = RETRY_AFTER_S) -> Problem:
    """A 503 that says when to come back; `arm` is the one at fault, or ""."""
    more = {"arm": arm} if arm else {}
    return Problem(503, code, detail, headers={"Retry-After": str(retry_after_s)}, more=more)


def too_large() -> Problem:
    """The request's body is above the limit."""
    limit = f"{wire.MAX_IMAGE_BYTES / 2**20:.1f} MiB"
    return Problem(413, str(ErrorCode.IMAGE_TOO_LARGE), f"The request is too large: a photo may have {limit}.")


def form_too_large(parts: int | None, field_bytes: int | None) -> Problem:
    """A form has more parts, or more bytes in a text field, than these."""
    text = f"A form may have {parts} parts and {(field_bytes or 0) // 1024} KiB in a text field; "
    return Problem(413, "request_too_large", f"{text}send the parameters in the query instead.")


def form_unreadable(error: ValueError, boundary: str) -> Problem:
    """A multipart body that is none."""
    if not boundary:
        text = "The form's Content-Type has no boundary; leave this header to the library that makes the form."
    elif isinstance(error, UnicodeDecodeError):
        text = "The form has a name that is no UTF-8; send the parameters in the query instead, or rename the file."
    else:
        text = "The form cannot be read: it is cut off, or has another boundary than its Content-Type says."
    return Problem(400, "bad_request", text)


def from_request_error(error: RequestError, arm: str = "") -> Problem:
    """`arm` is named where it failed; "" when none was asked."""
    status = HTTP_STATUS[error.code]
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:  # the worker's own failure, seen from a gateway
        status = HTTPStatus.BAD_GATEWAY
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    # the worker's name of the parameter, and its sentence, in the REST API's form
    detail = error.message.replace("class_names", "`class`") if error.field == "class_names" else error.message
    field_name = "class" if error.field == "class_names" else error.field
    more = {"arm": arm} if arm and status >= HTTPStatus.INTERNAL_SERVER_ERROR else {}
    return Problem(status, str(error.code), _sentence(detail), field_name, headers, more)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def from_server_error(error: ServerError, arm: str) -> Problem:
    status, detail = SERVER_TEXTS.get(error.code, _UNKNOWN_SERVER_FAULT)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return Problem(status, error.code, detail, headers=headers, more={"arm": arm})


def from_http_exception(error: HTTPException) -> Problem:
    """Flask's and werkzeug's own refusals, in our form."""
    if error.code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return too_large()
    status = HTTPStatus(error.code or 500)
    headers = {}
    detail = {404: "There is nothing here. The routes are in /openapi.json."}.get(status, f"{status.description}.")
    if isinstance(error, MethodNotAllowed):
        headers = {"Allow": ", ".join(sorted(error.valid_methods or ()))}
        methods = " and ".join(sorted(set(error.valid_methods or ()) - {"HEAD", "OPTIONS"}))
        detail = f"This address answers {methods} only."
    return Problem(status, status.name.lower(), detail, headers=headers)


def from_bug() -> Problem:
    return Problem(500, "internal_error", "Something went wrong in the gateway. Its log says what, under this id.")


def to_response(problem: Problem, request_id: str) -> Response:
    """The problem as an HTTP answer."""
    body = json.dumps(problem.to_json(request_id), ensure_ascii=False)
    response = Response(body, problem.status, content_type=MEDIA_TYPE)
    response.headers.update(problem.headers)
    return response
