"""The OpenAPI 3.1 document, made from the pydantic models that check requests (upload.py) and describe answers
(schemas.py), so that it cannot drift from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from maskserve.gateway import schemas
from maskserve.gateway.problems import MEDIA_TYPE
from maskserve.gateway.settings import Routing
from maskserve.gateway.upload import FILE_FIELDS, ComparisonParameters, Parameters, PredictionParameters

_REF = "#/components/schemas/{model}"
_BODIES: tuple[type[BaseModel], ...] = (
    schemas.Prediction,
    schemas.Comparison,
    schemas.Models,
    schemas.Health,
    schemas.Readiness,
    schemas.ProblemBody,
)
_PROBLEMS = {
    400: "A parameter is wrong, or there is no photo.",
    406: "`Accept` allows none of the answer's forms.",
    413: "The photo has too many bytes or pixels.",
    415: "The file is not a JPEG, PNG or WebP photo.",
    422: "The photo is damaged, or the answer would be too large.",
    500: "A bug in the gateway; its log has the request id.",
    502: "The model failed on this photo.",
    503: "The arm is down or busy; `Retry-After` says when to come back.",
    504: "The model did not answer in time.",
}
_PICTURES: dict[str, Any] = {
    kind: {"schema": {"type": "string", "contentMediaType": kind}} for kind in ("image/png", "image/jpeg")
}


def document(routing: Routing) -> dict[str, Any]:
    """The document as JSON types; header and cookie names are those of the settings."""
    _, definitions = models_json_schema([(body, "serialization") for body in _BODIES], ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "maskserve gateway",
            "version": "1",
            "description": "Instance segmentation by two Mask R-CNNs behind one address.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": _paths(routing),
        "components": {"schemas": definitions["$defs"]},
    }


def _paths(routing: Routing) -> dict[str, Any]:
    routed = [
        _header(routing.user_header, "Whose request it is: the same id always gets the same arm."),
        _header(routing.arm_header, "The arm that must answer; the parameter `arm` wins over it."),
        _cookie(routing.user_cookie, "As the user header; set by the first answer."),
    ]
    predict: dict[str, Any] = {
        "parameters": [*_parameters(PredictionParameters), *routed],
        "answers": {"application/json": _schema("Prediction"), **_PICTURES},
    }
    return {
        "/v1/predictions": {"post": _photo_operation("Segment a photo, as JSON or as a picture.", **predict)},
        "/predict": {"post": _photo_operation("The 2020 API: answers the overlay as PNG.", **predict)},
        "/v1/compare": {
            "post": _photo_operation(
                "Segment a photo with two arms and match what they found.",
                parameters=_parameters(ComparisonParameters),
                answers={"application/json": _schema("Comparison"), **_PICTURES},
            )
        },
        "/v1/models": {"get": _operation("The arms, their weights, models and workers.", _json_200("Models"))},
        "/healthz": {"get": _operation("Whether the gateway runs.", _json_200("Health"))},
        "/readyz": {
            "get": _operation(
                "Whether each required arm has a worker that is ready.",
                _json_200("Readiness") | {"503": _content("Not yet.", {"application/json": _schema("Readiness")})},
            )
        },
        "/metrics": {"get": _operation("Prometheus metrics.", {"200": _content("Text.", {"text/plain": {}})})},
        "/openapi.json": {
            "get": _operation("This document.", {"200": _content("OpenAPI 3.1.", {"application/json": {}})})
        },
        "/": {"get": _operation("The page.", {"200": _content("A page for people.", {"text/html": {}})})},
    }


def _operation(summary: str, answers: Mapping[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "responses": dict(answers)}


def _photo_operation(summary: str, parameters: list[Any], answers: Mapping[str, Any]) -> dict[str, Any]:
    problem = {MEDIA_TYPE: _schema("ProblemBody")}
    return {
        "summary": summary,
        "parameters": parameters,
        "requestBody": {"required": True, "content": _photo_content()},
        "responses": {
            "200": _content("The answer.", answers),
            **{str(status): _content(text, problem) for status, text in _PROBLEMS.items()},
        },
    }


def _photo_content() -> dict[str, Any]:
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    form = {
        "type": "object",
        "description": "One of the two files; the query parameters may also be sent as form fields.",
        "properties": dict.fromkeys(FILE_FIELDS, file),
        "oneOf": [{"required": [name]} for name in FILE_FIELDS],
    }
    raw: dict[str, Any] = {
        kind: {"schema": {}} for kind in ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
    }
    return {"multipart/form-data": {"schema": form}, **raw}


def _parameters(kind: type[Parameters]) -> list[dict[str, Any]]:
    """A model's fields as query parameters."""
    properties = kind.model_json_schema(by_alias=True)["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema.pop("description"),
            # `class=a&class=b`
            **({"style": "form", "explode": True} if schema.get("type") == "array" else {}),
            "schema": {key: value for key, value in schema.items() if key != "title"},
        }
        for name, schema in properties.items()
    ]


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": {"type": "string"}}


def _cookie(name: str, description: str) -> dict[str, Any]:
    return _header(name, description) | {"in": "cookie"}


def _schema(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": _REF.format(model=name)}}


def _json_200(name: str) -> dict[str, Any]:
    return {"200": _content("The answer.", {"application/json": _schema(name)})}


def _content(description: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": dict(content)}
