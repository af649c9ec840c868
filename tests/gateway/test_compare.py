"""POST /v1/compare."""

from __future__ import annotations

import time
from io import BytesIO

import pytest
from PIL import Image

from maskserve.protos import wire
from tests.gateway.conftest import SIZE


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
