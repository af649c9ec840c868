"""The routes: each reads its request, asks the dispatcher, and words the answer."""

from __future__ import annotations

import uuid
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass

import orjson
from flask import Flask, Response, current_app, g, request

from maskserve.gateway import answers, openapi, problems, routing
from maskserve.gateway.dispatch import Answer, Dispatcher, Job
from maskserve.gateway.drawing import Easel
from maskserve.gateway.metrics import CONTENT_TYPE, Metrics
from maskserve.gateway.readiness import Readiness
from maskserve.gateway.responses import json_answer, json_response, picture_answer
from maskserve.gateway.routing import Route
from maskserve.gateway.settings import Settings
from maskserve.gateway.upload import (
    AnswerFormat,
    ComparisonParameters,
    Parameters,
    PredictionParameters,
    choose_format,
    read_parameters,
    read_photo,
)
from maskserve.imaging.header import check_image
from maskserve.protos.types import SegmentOptions

_COOKIE_AGE_S = 365 * 24 * 3600


@dataclass(frozen=True)
class Gateway:
    """What the routes work with."""

    settings: Settings
    dispatcher: Dispatcher
    readiness: Readiness
    easel: Easel
    metrics: Metrics

    def predict(self, default_format: AnswerFormat = "json") -> Response:
        """POST /v1/predictions, and POST /predict with another default."""
        parameters = read_parameters(request, PredictionParameters)
        kind = choose_format(request, parameters, default_format)
        user_id, known = self._user()
        route = self._route(parameters, user_id, known)
        job = self._job(parameters, with_masks=kind != "json")
        with self._queue(kind):
            answer = self.dispatcher.predict(job, route)
            self._count(answer)
            if kind == "json":
                body = answers.prediction_json(answer, parameters.mask_format)
                response = json_answer(body, answers.worker_stages(answer))
            else:
                picture = self.easel.overlay(job.image, answer, kind, job.deadline)
                response = picture_answer(picture, kind, answers.worker_stages(answer))
        response.headers.extend(answers.prediction_headers(answer))
        if not known:
            self._remember(response, user_id)
        return response

    def compare(self) -> Response:
        """POST /v1/compare."""
        parameters = read_parameters(request, ComparisonParameters)
        kind = choose_format(request, parameters)
        left, right = self._pair(parameters.arms)
        job = self._job(parameters, with_masks=True)
        with self._queue(kind):
            one, other = self.dispatcher.compare(job, left, right)
            stages = {f"call-{answer.arm}": answer.call_ms for answer in (one, other)}
            if kind == "json":
                response = json_answer(answers.comparison_json(one, other, parameters.mask_format), stages)
            else:
                picture = self.easel.comparison(job.image, one, other, kind, job.deadline)
                response = picture_answer(picture, kind, stages)
        response.headers["X-Maskserve-Arm"] = f"{left}, {right}"
        response.headers["X-Maskserve-Model"] = f"{one.segmentation.model.name}, {other.segmentation.model.name}"
        return response

    def models(self) -> Response:
        """GET /v1/models."""
        rows = []
        for status in self.readiness.statuses():
            arm = self.settings.arms[status.arm]
            rows.append(asdict(status) | {"weight": arm.weight, "required": arm.required, "ready": status.is_ready})
        return json_response({"arms": rows})

    def ready(self) -> Response:
        """GET /readyz."""
        missing = self.readiness.missing()
        waiting = [{"arm": one.arm, "model": one.model, "why": one.why_not} for one in missing]
        return json_response({"ready": not missing, "waiting_for": waiting}, 503 if missing else 200)

    def _queue(self, kind: AnswerFormat) -> AbstractContextManager[None]:
        """Of pictures; JSON waits for nobody."""
        return nullcontext() if kind == "json" else self.easel.queue()

    def _user(self) -> tuple[str, bool]:
        """(id, whether the request brought it); an unknown user gets a fresh one and, as a cookie, keeps it."""
        names = self.settings.routing
        given = request.headers.get(names.user_header, "").strip() or request.cookies.get(names.user_cookie, "")
        return (given, True) if given else (uuid.uuid4().hex, False)

    def _route(self, parameters: PredictionParameters, user_id: str, known: bool) -> Route:
        how = self.settings.routing
        override = parameters.arm or request.headers.get(how.arm_header, "").strip()
        if override:
            self._check_arm(override, "arm" if parameters.arm else how.arm_header)
        return routing.route(
            self.settings.weights,
            how.salt,
            user_id,
            known=known,
            override=override,
            fallback=how.fallback,
            fallback_on_override=how.fallback_on_override,
        )

    def _pair(self, arms: str) -> tuple[str, str]:
        names = arms.split(",") if arms else list(self.settings.arms)[:2]
        for name in names:
            self._check_arm(name, "arms")
        if len(names) != 2 or names[0] == names[1]:
            raise problems.invalid("arms", "Name two different arms, e.g. arms=a,b.", "arms_invalid")
        return names[0], names[1]

    def _check_arm(self, name: str, field: str) -> None:
        if name not in self.settings.arms:
            known = ", ".join(self.settings.arms)
            raise problems.invalid(field, f"There is no arm {name[:40]!r}; there are: {known}.", "arm_unknown")

    def _job(self, parameters: Parameters, *, with_masks: bool) -> Job:
        """The photo, checked by its header. Raises RequestError, Problem, werkzeug's 413."""
        photo = read_photo(request)
        check_image(photo)
        options = parameters.options
        if with_masks:
            options = SegmentOptions(options.score_threshold, options.max_instances, "rle", options.class_names)
        return Job(photo, options, g.request_id, g.started + self.settings.torchserve.timeout_s)

    def _count(self, answer: Answer) -> None:
        self.metrics.exposures.labels(answer.arm, str(answer.reason)).inc()
        self.metrics.latency.labels(answer.arm).observe(answer.call_ms / 1000)
        self.metrics.coverage.labels(answer.arm).observe(answer.segmentation.coverage.total)

    def _remember(self, response: Response, user_id: str) -> None:
        name = self.settings.routing.user_cookie
        response.set_cookie(name, user_id, max_age=_COOKIE_AGE_S, httponly=True, samesite="Lax")


def add_routes(app: Flask, gateway: Gateway) -> None:
    """All routes; openapi.py describes them, and a test compares the two."""
    document = orjson.dumps(openapi.document(gateway.settings.routing))
    app.add_url_rule("/", "page", lambda: current_app.send_static_file("index.html"))
    app.add_url_rule("/v1/predictions", "predictions", gateway.predict, methods=["POST"])
    app.add_url_rule("/predict", "predict", lambda: gateway.predict("png"), methods=["POST"])
    app.add_url_rule("/v1/compare", "compare", gateway.compare, methods=["POST"])
    app.add_url_rule("/v1/models", "models", gateway.models)
    app.add_url_rule("/healthz", "healthz", lambda: json_response({"status": "ok"}))
    app.add_url_rule("/readyz", "readyz", gateway.ready)
    app.add_url_rule("/metrics", "metrics", lambda: Response(gateway.metrics.text(), content_type=CONTENT_TYPE))
    app.add_url_rule("/openapi.json", "openapi", lambda: Response(document, content_type="application/json"))
