"""POST /v1/compare."""

from __future__ import annotations

import threading
import time
from io import BytesIO

import pytest
from PIL import Image

from maskserve.protos import wire
from tests.gateway.conftest import SIZE
from tests.waiting import until

MODELS = {"a": wire.MODEL_R50, "b": wire.MODEL_MNV2}


def test_both_arms_answer_and_their_instances_are_matched(http, photo):
    body = http.post("/v1/compare", data=photo).json
    assert [body[side]["model"]["name"] for side in ("left", "right")] == [wire.MODEL_R50, wire.MODEL_MNV2]
    assert [body[side]["arm"] for side in ("left", "right")] == ["a", "b"]
    assert [(match["left"], match["right"], match["mask_iou"]) for match in body["matches"]] == [(0, 0, 1), (1, 1, 1)]
    assert (body["only_left"], body["only_right"], body["mean_mask_iou"]) == ([], [], 1)
    assert body["coverage_difference"] == {"total": 0, "by_class": {"giant panda": 0, "red panda": 0}}
    assert body["latency_difference_ms"].keys() == {"call", "inference", "total"}


def test_the_arms_are_asked_at_the_same_time(http, photo, fake_torchserve):
    fake_torchserve.delay_s = 1.0
    started = time.monotonic()
    assert http.post("/v1/compare", data=photo).status_code == 200
    assert time.monotonic() - started < 1.9  # one after the other: 2 s


def test_the_arms_may_be_named_in_another_order(http, photo):
    body = http.post("/v1/compare?arms=b,a", data=photo).json
    assert [body[side]["arm"] for side in ("left", "right")] == ["b", "a"]


@pytest.mark.parametrize("mask_format", ["polygon", "none"])
def test_masks_are_matched_even_when_they_are_not_asked_for(http, photo, mask_format):
    body = http.post(f"/v1/compare?mask_format={mask_format}", data=photo).json
    assert body["mean_mask_iou"] == 1
    assert ("mask_polygons" in body["left"]["instances"][0]) == (mask_format == "polygon")
    assert "mask_rle" not in body["right"]["instances"][0]


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_it_may_be_one_picture_side_by_side(http, photo, kind):
    answer = http.post(f"/v1/compare?format={kind}", data=photo)
    assert answer.content_type == f"image/{kind}"
    width, height = Image.open(BytesIO(answer.data)).size
    assert width > 2 * SIZE[1]
    assert height > SIZE[0]
    assert answer.headers["X-Maskserve-Model"] == f"{wire.MODEL_R50}, {wire.MODEL_MNV2}"


@pytest.mark.parametrize(
    ("arms", "code"),
    [("a,a", "arms_invalid"), ("a", "arms_invalid"), ("a,z", "arm_unknown"), ("a,b,a", "arms_invalid")],
)
def test_arms_that_cannot_be_compared_are_refused(http, photo, arms, code):
    answer = http.post(f"/v1/compare?arms={arms}", data=photo)
    assert (answer.status_code, answer.json["code"], answer.json["field"]) == (400, code, "arms")


def test_with_one_arm_there_is_nothing_to_compare(make_app, photo):
    app = make_app(arms={"a": {"model": wire.MODEL_R50, "weight": 1}}).test_client()
    assert app.post("/v1/compare", data=photo).json["code"] == "arms_invalid"


@pytest.mark.parametrize(("model", "arm"), [(wire.MODEL_R50, "a"), (wire.MODEL_MNV2, "b")])
def test_an_arm_that_is_down_is_named_and_nobody_takes_its_place(http, photo, fake_torchserve, model, arm):
    fake_torchserve.set_ready(model, False)
    answer = http.post("/v1/compare", data=photo)
    assert (answer.status_code, answer.json["code"], answer.json["arm"]) == (503, "overloaded", arm)


def test_a_bad_photo_is_refused_before_an_arm_is_asked(http, fake_torchserve):
    assert http.post("/v1/compare", data=b"no photo").status_code == 415
    assert not fake_torchserve.calls


@pytest.mark.parametrize("full", ["a", "b"])
def test_a_full_arm_refuses_at_once_and_the_other_is_not_asked(make_app, photo, fake_torchserve, full):
    app = make_app(limits={"in_flight_per_arm": 1})
    fake_torchserve.delay_s = 1.0
    first = threading.Thread(
        target=app.test_client().post, args=(f"/v1/predictions?arm={full}",), kwargs={"data": photo}
    )
    first.start()
    assert until(lambda: fake_torchserve.attempts[MODELS[full]])
    started = time.monotonic()
    answer = app.test_client().post("/v1/compare", data=photo)
    assert time.monotonic() - started < 0.5
    assert (answer.status_code, answer.json["code"], answer.json["arm"]) == (503, "too_many_requests", full)
    assert sum(fake_torchserve.attempts.values()) == 1
    first.join()
    assert app.test_client().post("/v1/compare", data=photo).status_code == 200  # nobody has kept a place


def test_a_burst_does_not_make_a_healthy_arm_look_dead(make_app, photo, fake_torchserve):
    app = make_app(torchserve={"timeout_s": 3.0}, limits={"in_flight_per_arm": 2})
    fake_torchserve.delay_s = 0.6
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(app.test_client().post("/v1/compare", data=photo)))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted({(answer.status_code, answer.json.get("code")) for answer in answers}, key=str) == [
        (200, None),
        (503, "too_many_requests"),
    ]
    assert "maskserve_failures_total{" not in app.test_client().get("/metrics").text


def test_an_arm_that_is_left_alone_does_not_keep_the_other_arms_probe(make_app, photo, fake_torchserve):
    app = make_app()
    arms = app.extensions["maskserve"].dispatcher._arms
    for _ in range(5):
        arms["a"].breaker.failed()
        arms["b"].breaker.failed()
    arms["a"].breaker._retry_at, arms["b"].breaker._retry_at = 0.0, float("inf")  # a may be tried again, b not yet
    answer = app.test_client().post("/v1/compare", data=photo)
    assert (answer.status_code, answer.json["code"], answer.json["arm"]) == (503, "arm_unavailable", "b")
    assert not fake_torchserve.calls
    assert app.test_client().post("/v1/predictions?arm=a", data=photo).status_code == 200


def test_a_comparison_is_no_exposure_and_its_calls_are_not_among_the_predictions(http, photo):
    assert http.post("/v1/compare", data=photo).status_code == 200
    text = http.get("/metrics").text
    assert 'maskserve_requests_total{route="/v1/compare",status="200"} 1.0' in text
    for name in ("exposures_total", "call_seconds_count", "coverage_ratio_count"):
        assert f"maskserve_{name}{{" not in text
