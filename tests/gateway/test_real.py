"""The gateway in front of the real TorchServe: the whole path from HTTP to the worker and back."""

from __future__ import annotations

from io import BytesIO

import pytest
from flask import Flask
from PIL import Image

from maskserve.client.client import Client
from maskserve.gateway.app import create_app
from maskserve.protos import wire
from tests.gateway.conftest import make_photo, settings_for

pytestmark = pytest.mark.torchserve

SIZE = (120, 160)


@pytest.fixture(scope="module")
def app(real_torchserve) -> Flask:
    settings = settings_for(real_torchserve, torchserve={"timeout_s": 30})
    with Client(real_torchserve.address, management_address=real_torchserve.management_address) as client:
        app = create_app(settings, client)
        yield app
        app.extensions["maskserve"].dispatcher.close()


@pytest.fixture
def http(app):
    return app.test_client(use_cookies=False)


@pytest.fixture(scope="module")
def photo() -> bytes:
    return make_photo(SIZE)


def test_both_arms_are_ready(http):
    assert http.get("/readyz").json == {"ready": True, "waiting_for": []}
    arms = http.get("/v1/models").json["arms"]
    assert [(arm["model"], arm["workers_ready"]) for arm in arms] == [(wire.MODEL_R50, 1), (wire.MODEL_MNV2, 1)]


@pytest.mark.parametrize(("arm", "backbone"), [("a", "resnet50"), ("b", "mobilenetv2")])
def test_each_arm_answers_with_its_own_model(http, photo, arm, backbone):
    body = http.post(f"/v1/predictions?arm={arm}&score_threshold=0&max_instances=5", data=photo).json
    assert (body["arm"], body["model"]["backbone"], body["size"]) == (arm, backbone, list(SIZE))
    assert 0 < len(body["instances"]) <= 5
    assert 0 < body["timings"]["inference_ms"] <= body["call_ms"] <= body["gateway_ms"]


def test_the_2020_api_draws_what_the_worker_found(http, photo):
    answer = http.post("/predict", data={"file": (BytesIO(photo), "p.jpg"), "score_threshold": "0"})
    assert Image.open(BytesIO(answer.data)).size == SIZE[::-1]
    assert float(answer.headers["X-Maskserve-Coverage"]) > 0


def test_compare_answers_for_both(http, photo):
    body = http.post("/v1/compare?score_threshold=0&max_instances=5&mask_format=polygon", data=photo).json
    assert [body[side]["model"]["backbone"] for side in ("left", "right")] == ["resnet50", "mobilenetv2"]
    assert len(body["matches"]) + len(body["only_left"]) == len(body["left"]["instances"])


def test_a_photo_that_is_damaged_behind_its_header_is_the_senders_fault(http, photo):
    answer = http.post("/v1/predictions?arm=b", data=photo[: len(photo) // 2])
    assert (answer.status_code, answer.json["code"]) == (422, "image_unreadable")


def test_a_class_that_the_model_does_not_know_is_named(http, photo):
    answer = http.post("/v1/predictions?arm=a&class=zebra", data=photo)
    assert (answer.status_code, answer.json["code"], answer.json["field"]) == (400, "options_invalid", "class")
    assert "zebra" in answer.json["detail"]


def test_an_arm_without_an_archive_is_replaced_and_the_answer_says_so(real_torchserve, photo):
    arms = {"a": {"model": "not_there", "weight": 1e9}, "b": {"model": wire.MODEL_MNV2, "weight": 1e-9}}
    settings = settings_for(real_torchserve, torchserve={"timeout_s": 30}, arms=arms)
    with Client(real_torchserve.address, management_address=real_torchserve.management_address) as client:
        app = create_app(settings, client)
        body = app.test_client().post("/v1/predictions", data=photo).json
        assert (body["arm"], body["reason"], body["fallback_from"]) == ("b", "fallback", "a")
        assert app.test_client().get("/readyz").status_code == 503
        app.extensions["maskserve"].dispatcher.close()
