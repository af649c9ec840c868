"""Bodies ─▶ responses, with the stages of their making in Server-Timing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson
from flask import Response, g
from werkzeug.datastructures import Headers

from maskserve.gateway.answers import server_timing
from maskserve.gateway.upload import AnswerFormat

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class WholeResponse(Response):
    """One that is sent as it is: its body is there, and so is its length.

    werkzeug copies and checks every header once more, for responses that lack a length or lead elsewhere.
    """

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        return self.headers if self.status_code == 200 else super().get_wsgi_headers(environ)


def json_response(body: Mapping[str, Any], status: int = 200) -> Response:
    text = orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE)
    return WholeResponse(text, status, content_type="application/json")


def json_answer(body: Mapping[str, Any], stages: Mapping[str, float]) -> Response:
    total_ms = (time.monotonic() - g.started) * 1000
    response = json_response({"request_id": g.request_id, **body, "gateway_ms": round(total_ms, 1)})
    return _timed(response, stages, total_ms)


def picture_answer(picture: bytes, kind: AnswerFormat, stages: Mapping[str, float]) -> Response:
    response = WholeResponse(picture, content_type=f"image/{kind}")
    return _timed(response, stages, (time.monotonic() - g.started) * 1000)


def _timed(response: Response, stages: Mapping[str, float], total_ms: float) -> Response:
    response.headers.add("Server-Timing", server_timing({**stages, "total": total_ms}))
    return response
