"""Settings and a client ─▶ the Flask application.

    request id ─▶ read the photo ─▶ check its header ─▶ choose the arm ─▶ ask it ─▶ JSON or a picture ─▶ headers

Every failure on the way is a Problem (problems.py). The routes are in routes.py.
"""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from pathlib import Path
from typing import Protocol

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from maskserve.gateway import problems
from maskserve.gateway.dispatch import Dispatcher, Predicts
from maskserve.gateway.drawing import Easel
from maskserve.gateway.metrics import Metrics
from maskserve.gateway.problems import Problem
from maskserve.gateway.readiness import Readiness, SaysStatus
from maskserve.gateway.routes import Gateway, add_routes
from maskserve.gateway.settings import Settings
from maskserve.gateway.upload import MemoryRequest
from maskserve.gateway.wsgi import REFUSAL
from maskserve.protos.errors import RequestError

PAGE = Path(__file__).parent / "page"

_log = logging.getLogger("maskserve.gateway")
_access_log = logging.getLogger("maskserve.gateway.access")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class GatewayClient(Predicts, SaysStatus, Protocol):
    """What the gateway needs of `maskserve.client.Client`."""


def create_app(settings: Settings, client: GatewayClient) -> Flask:
    """The WSGI application; it neither opens nor closes `client`."""
    # both paths are said, since Flask cannot find them by itself in a namespace package
    app = Flask(
        "maskserve.gateway",
        root_path=str(PAGE.parent),
        instance_path=str(PAGE.parent),
        static_folder=PAGE.name,
        static_url_path="/page",
    )
    app.request_class = MemoryRequest
    metrics = Metrics()
    readiness = Readiness(settings, client)
    gateway = Gateway(
        settings=settings,
        dispatcher=Dispatcher(settings, client, metrics, readiness.workers),
        readiness=readiness,
        easel=Easel(settings.limits.drawings, settings.places),
        metrics=metrics,
    )
    app.extensions["maskserve"] = gateway
    app.before_request(_start)
    app.after_request(lambda response: _finish(response, gateway))
    app.register_error_handler(Problem, lambda error: problems.to_response(error, g.request_id))
    app.register_error_handler(RequestError, _request_error)
    app.register_error_handler(HTTPException, _http_exception)
    app.register_error_handler(Exception, _bug)
    add_routes(app, gateway)
    return app


def _start() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    g.started = time.monotonic()
    if refusal := request.environ.get(REFUSAL):
        raise refusal


def _finish(response: Response, gateway: Gateway) -> Response:
    # all at once: werkzeug's Headers look through all names for each that is set
    present = {name.lower() for name, _ in response.headers}
    added = {"X-Request-Id": g.request_id, **_SECURITY_HEADERS}
    response.headers.extend([(name, value) for name, value in added.items() if name.lower() not in present])
    # a path that nobody has is not a label: it is the sender's text
    route = request.url_rule.rule if request.url_rule else "none"
    gateway.metrics.requests.labels(route, response.status_code).inc()
    if gateway.settings.server.access_log:
        _access_log.info("%s", json.dumps(_access_line(response)))
    return response


def _access_line(response: Response) -> dict[str, object]:
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "request_id": g.request_id,
        "method": request.method,
        "path": request.path,
        "status": response.status_code,
        "arm": response.headers.get("X-Maskserve-Arm", ""),
        "reason": response.headers.get("X-Maskserve-Reason", ""),
        "request_bytes": request.content_length or 0,
        "ms": round((time.monotonic() - g.started) * 1000, 1),
    }


def _request_error(error: RequestError) -> Response:
    return problems.to_response(problems.from_request_error(error), g.request_id)


def _http_exception(error: HTTPException) -> Response:
    return problems.to_response(problems.from_http_exception(error), g.request_id)


def _bug(error: Exception) -> Response:
    _log.error("request %s failed", g.request_id, exc_info=error)
    return problems.to_response(problems.from_bug(), g.request_id)
