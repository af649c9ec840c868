"""The addresses that tell about the gateway: health, readiness, models, metrics, and the API's description."""

from __future__ import annotations

import re
import threading
import time
from io import BytesIO

import jsonschema
import pytest
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from maskserve.client.client import ModelStatus
from maskserve.gateway.readiness import Readiness
from maskserve.protos import wire
from tests.gateway.conftest import settings_for

PREDICT = "/v1/predictions"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Readiness is asked anew each time; one test turns that off."""
    monkeypatch.setattr("maskserve.gateway.readiness.MAX_AGE_S", 0.0)


def test_health_does_not_depend_on_torchserve(http, fake_torchserve):
    fake_torchserve.stop()
    assert http.get("/healthz").json == {"status": "ok"}


def test_ready_when_each_required_arm_has_a_ready_worker(http, fake_torchserve):
    assert http.get("/readyz").json == {"ready": True, "waiting_for": []}
    fake_torchserve.set_ready(wire.MODEL_MNV2, False)
    answer = http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json == {
        "ready": False,
        "waiting_for": [{"arm": "b", "model": wire.MODEL_MNV2, "why": "None of its 1 workers is ready yet."}],
    }
    fake_torchserve.set_ready(wire.MODEL_MNV2, True)
    assert http.get("/readyz").status_code == 200


def test_an_arm_that_is_not_required_does_not_hold_readiness_up(make_app, fake_torchserve):
    arms = {"a": {"model": wire.MODEL_R50}, "b": {"model": "not_loaded", "required": False}}
    app = make_app(arms=arms).test_client()
    assert app.get("/readyz").status_code == 200
    assert [arm["ready"] for arm in app.get("/v1/models").json["arms"]] == [True, False]


def test_an_arm_whose_version_is_not_loaded_is_not_ready(make_app):
    arms = {"a": {"model": wire.MODEL_R50, "version": "9.9"}, "b": {"model": wire.MODEL_MNV2, "version": "1.0"}}
    app = make_app(arms=arms).test_client()
    answer = app.get("/readyz")
    assert (answer.status_code, [one["arm"] for one in answer.json["waiting_for"]]) == (503, ["a"])
    listed = [(arm["version"], arm["ready"], arm["workers_ready"]) for arm in app.get("/v1/models").json["arms"]]
    assert listed == [("9.9", False, 0), ("1.0", True, 1)]


def test_not_ready_when_torchserve_is_gone(http, fake_torchserve):
    fake_torchserve.stop()
    answer = http.get("/readyz")
    assert answer.status_code == 503
    assert "cannot be reached" in answer.json["waiting_for"][0]["why"]


class Stub:
    """A client whose TorchServe has the models, and may hang."""

    def __init__(self):
        self.asked = 0
        self.goes_on = threading.Event()
        self.goes_on.set()

    def model_status(self, model, version=""):
        self.asked += 1
        self.goes_on.wait(10)
        return ModelStatus(model, "1.0", 1, 1)


def test_torchserve_is_asked_at_most_once_a_second(fake_torchserve, monkeypatch):
    monkeypatch.setattr("maskserve.gateway.readiness.MAX_AGE_S", 1.0)
    client, now = Stub(), [0.0]
    readiness = Readiness(settings_for(fake_torchserve), client, lambda: now[0])
    for seconds, asked in ((0.0, 2), (0.5, 2), (0.99, 2), (1.0, 4)):
        now[0] = seconds
        assert readiness.missing() == ()
        assert client.asked == asked


def test_a_torchserve_that_hangs_is_not_ready_and_keeps_nobody_waiting(fake_torchserve, monkeypatch):
    monkeypatch.setattr("maskserve.gateway.readiness.MAX_AGE_S", 0.1)
    client, now = Stub(), [0.0]
    readiness = Readiness(settings_for(fake_torchserve), client, lambda: now[0])
    assert readiness.missing() == ()
    client.goes_on.clear()
    now[0] = 100.0
    hanging = threading.Thread(target=readiness.statuses)
    hanging.start()
    started = time.monotonic()
    assert [one.arm for one in readiness.missing()] == ["a", "b"]
    assert time.monotonic() - started < 1
    client.goes_on.set()
    hanging.join()
    assert readiness.missing() == ()


def test_models_lists_the_arms_with_weights_and_workers(http):
    assert http.get("/v1/models").json["arms"][1] == {
        "arm": "b",
        "model": wire.MODEL_MNV2,
        "version": "1.0",
        "weight": 50.0,
        "required": True,
        "ready": True,
        "workers_ready": 1,
        "workers_total": 1,
        "why_not": "",
    }


def test_metrics_count_requests_arms_failures_and_fallbacks(http, photo, fake_torchserve):
    user = {"X-User-Id": "someone"}
    arm = http.post(PREDICT, data=photo, headers=user).json["arm"]
    other = {"a": "b", "b": "a"}[arm]
    fake_torchserve.play({"a": wire.MODEL_R50, "b": wire.MODEL_MNV2}[arm], "overloaded")
    http.post(PREDICT, data=photo, headers=user)
    http.post(PREDICT, data=b"x")
    http.get("/some/<script>/path")
    text = http.get("/metrics").text
    for line in (
        'maskserve_requests_total{route="/v1/predictions",status="200"} 2.0',
        'maskserve_requests_total{route="/v1/predictions",status="415"} 1.0',
        'maskserve_requests_total{route="none",status="404"} 1.0',
        f'maskserve_exposures_total{{arm="{arm}",reason="sticky"}} 1.0',
        f'maskserve_exposures_total{{arm="{other}",reason="fallback"}} 1.0',
        f'maskserve_failures_total{{arm="{arm}",code="overloaded"}} 1.0',
        f'maskserve_fallbacks_total{{code="overloaded",from_arm="{arm}",to_arm="{other}"}} 1.0',
        f'maskserve_call_seconds_count{{arm="{arm}"}} 1.0',
        f'maskserve_in_flight{{arm="{arm}"}} 0.0',
    ):
        assert line in text
    assert "script" not in text


def test_every_answer_has_the_security_headers(http, photo):
    for answer in (http.get("/"), http.get("/nothing"), http.post(PREDICT, data=photo), http.get("/page/app.js")):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        answer.close()


@pytest.fixture
def document(http):
    return http.get("/openapi.json").json


def test_every_route_and_method_is_in_the_openapi_document(make_app, document):
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in make_app().url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if rule.endpoint != "static"
    }
    described = {(path, method) for path, item in document["paths"].items() for method in item}
    assert served == described


def validator(document, status, operation, content_type):
    """A JSON Schema validator for one documented answer."""
    content = operation["responses"][str(status)]["content"][content_type]["schema"]
    resource = Resource(contents=document, specification=DRAFT202012)
    registry = Registry().with_resource("urn:document", resource)
    schema = {"$ref": content["$ref"].replace("#", "urn:document#")}
    return jsonschema.Draft202012Validator(schema, registry=registry)


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/v1/predictions", "post"),
        ("/v1/predictions?mask_format=polygon", "post"),
        ("/v1/predictions?mask_format=none", "post"),
        ("/v1/compare", "post"),
        ("/v1/compare?mask_format=polygon", "post"),
        ("/v1/models", "get"),
        ("/healthz", "get"),
        ("/readyz", "get"),
    ],
)
def test_answers_are_as_the_document_says(http, photo, document, path, method):
    answer = http.open(path, method=method, data=photo if method == "post" else None)
    operation = document["paths"][path.split("?")[0]][method]
    validator(document, answer.status_code, operation, answer.content_type).validate(answer.json)


@pytest.mark.parametrize("fault", ["bad parameter", "bad photo", "arm down", "handler failed", "not acceptable"])
@pytest.mark.parametrize("path", ["/v1/predictions", "/v1/compare", "/predict"])
def test_problems_are_as_the_document_says(http, photo, document, fake_torchserve, fault, path):
    form = {"image": (BytesIO(photo), "p.jpg")}
    query, headers = ("?max_instances=0" if fault == "bad parameter" else ""), {}
    if fault == "bad photo":
        form = {"image": (BytesIO(b"x"), "p.jpg")}
    elif fault == "not acceptable":
        headers = {"Accept": "text/csv"}
    elif fault in ("arm down", "handler failed"):
        for model in (wire.MODEL_R50, wire.MODEL_MNV2):
            fake_torchserve.play(model, "overloaded" if fault == "arm down" else "handler_failed")
    answer = http.post(path + query, data=form, headers=headers)
    assert answer.status_code >= 400
    operation = document["paths"][path]["post"]
    validator(document, answer.status_code, operation, answer.content_type).validate(answer.json)


def test_the_documents_parameters_are_the_ones_that_are_accepted(http, photo, document):
    values = {"format": "json", "score_threshold": "0.5", "max_instances": "3", "mask_format": "none"}
    values |= {"class": "red panda", "arm": "a"}
    operation = document["paths"]["/v1/predictions"]["post"]
    assert {one["name"] for one in operation["parameters"] if one["in"] == "query"} == values.keys()
    assert http.post(PREDICT, data=photo, query_string=values).status_code == 200


def test_the_document_is_openapi(document):
    assert document["openapi"].startswith("3.1")
    text = str(document)
    for reference in re.findall(r"'\$ref': '#/components/schemas/(\w+)'", text):
        jsonschema.Draft202012Validator.check_schema(document["components"]["schemas"][reference])
    for item in document["paths"].values():
        for operation in item.values():
            assert operation["summary"]
            assert "200" in operation["responses"]


def test_readiness_answers_quickly_while_an_arm_is_slow(http, photo, fake_torchserve):
    fake_torchserve.delay_s = 1.0
    started = time.monotonic()
    assert http.get("/readyz").status_code == 200
    assert time.monotonic() - started < 0.5
