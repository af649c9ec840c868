"""POST /v1/predictions and POST /predict."""

from __future__ import annotations

from collections import Counter
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from maskserve.gateway.answers import prediction_headers
from maskserve.gateway.dispatch import Answer
from maskserve.gateway.routing import Reason
from maskserve.imaging.rle import decode_rle
from maskserve.protos import wire
from maskserve.protos.codec import segmentation_to_json
from maskserve.protos.types import Coverage, MaskRle, ModelInfo, Segmentation
from tests.gateway.conftest import SIZE, make_photo

PREDICT = "/v1/predictions"
MODELS = {"a": wire.MODEL_R50, "b": wire.MODEL_MNV2}


@pytest.mark.parametrize("field", ["image", "file"])
def test_a_multipart_file_is_answered_in_json(http, photo, field):
    answer = http.post(PREDICT, data={field: (BytesIO(photo), "p.jpg")})
    assert answer.status_code == 200
    assert answer.json["size"] == list(SIZE)
    assert [one["class_name"] for one in answer.json["instances"]] == ["giant panda", "red panda"]


@pytest.mark.parametrize("content_type", ["image/jpeg", "application/x-www-form-urlencoded", "text/plain", None])
def test_the_body_may_be_the_photo_whatever_it_is_called(http, photo, content_type):
    assert http.post(PREDICT, data=photo, content_type=content_type).json["size"] == list(SIZE)


def test_the_upload_arrives_at_torchserve_as_it_was_sent(http, photo, fake_torchserve):
    http.post(PREDICT, data={"image": (BytesIO(photo), "p.jpg")}, headers={"X-Request-Id": "my-id.1"})
    call = fake_torchserve.calls[-1]
    assert (call.image, call.request_id) == (photo, "my-id.1")


def test_the_answer_says_which_arm_model_version_and_why(http, photo):
    answer = http.post(PREDICT, data=photo)
    body, headers = answer.json, answer.headers
    assert body["model"]["name"] == MODELS[body["arm"]]
    assert (body["reason"], body["fallback_from"], body["model"]["version"]) == ("weighted", None, "1.0")
    assert headers["X-Maskserve-Arm"] == body["arm"]
    assert headers["X-Maskserve-Model"] == body["model"]["name"]
    assert headers["X-Maskserve-Model-Version"] == "1.0"
    assert headers["X-Maskserve-Reason"] == "weighted"
    assert headers["X-Request-Id"] == body["request_id"]
    assert headers["X-Maskserve-Instances"] == "2"
    assert float(headers["X-Maskserve-Coverage"]) == pytest.approx(body["coverage"]["total"], abs=1e-6)
    assert float(headers["X-Maskserve-Coverage-red-panda"]) > 0
    assert "inference;dur=30.0" in headers["Server-Timing"]
    assert body["gateway_ms"] >= body["call_ms"]


def test_classes_without_latin_letters_have_their_place_in_the_json_as_their_header():
    names = ["小熊猫", "red panda", "大熊猫"]
    headers = []
    for order in (names, names[::-1]):  # a worker's reply has no order
        cover = Coverage(0.0, {name: names.index(name) / 4 for name in order})
        segmentation = Segmentation((1, 1), (), cover, ModelInfo("m", "1.0", "resnet50"))
        headers.append(prediction_headers(Answer(segmentation, "a", Reason.STICKY, 0.0)))
    assert headers[0] == headers[1]
    assert list(segmentation_to_json(segmentation)["coverage"]["by_class"]) == ["red panda", "大熊猫", "小熊猫"]
    assert (headers[0]["X-Maskserve-Coverage-1"], headers[0]["X-Maskserve-Coverage-2"]) == ("0.500000", "0.000000")


def test_of_many_classes_the_headers_name_those_that_cover_most():
    """Python's own http.client, for one, refuses an answer of more than a hundred headers."""
    by_class = {f"class {number}": number / 1000 for number in range(200)}
    segmentation = Segmentation((1, 1), (), Coverage(0.5, by_class), ModelInfo("m", "1.0", "resnet50"))
    headers = prediction_headers(Answer(segmentation, "a", Reason.STICKY, 0.0))
    classes = {name for name in headers if name.startswith("X-Maskserve-Coverage-")}
    assert classes == {f"X-Maskserve-Coverage-class-{number}" for number in range(168, 200)}


@pytest.mark.parametrize("answer_format", ["json", "png"])
def test_the_answer_says_how_long_it_is_and_each_header_once(http, photo, answer_format):
    answer = http.post(PREDICT, data=photo, query_string={"format": answer_format})
    assert int(answer.headers["Content-Length"]) == len(answer.data)
    assert len({name for name, _ in answer.headers}) == len(answer.headers)


@pytest.mark.parametrize("bad", ["", "a b", "x" * 65, "ü", "<script>"])
def test_a_request_id_that_could_do_harm_is_replaced(http, bad):
    given = http.get("/healthz", headers={"X-Request-Id": bad.encode().decode("latin-1")}).headers["X-Request-Id"]
    assert len(given) == 32


def test_masks_are_rle_polygons_or_left_out(http, photo):
    rle = http.post(PREDICT, data=photo).json["instances"][0]
    polygons = http.post(f"{PREDICT}?mask_format=polygon", data=photo).json["instances"][0]
    none = http.post(f"{PREDICT}?mask_format=none", data=photo).json["instances"][0]
    mask = decode_rle(MaskRle(SIZE, rle["mask_rle"]["counts"]))
    assert (mask.sum(), rle["mask_rle"]["size"]) == (rle["area_px"], list(SIZE))
    outline = np.array(polygons["mask_polygons"][0]).reshape(-1, 2)
    x_min, y_min, x_max, y_max = polygons["box_xyxy"]
    assert outline.min(axis=0) == pytest.approx([x_min, y_min], abs=1)
    assert outline.max(axis=0) == pytest.approx([x_max, y_max], abs=1)
    assert "mask_rle" not in polygons
    assert not {"mask_rle", "mask_polygons"} & none.keys()
    assert none["area_px"] == rle["area_px"]


def test_options_travel_to_the_worker(http, photo, fake_torchserve):
    answer = http.post(f"{PREDICT}?score_threshold=0.9&max_instances=7&class=giant+panda&class=red+panda", data=photo)
    options = fake_torchserve.calls[-1].options
    assert options.score_threshold == pytest.approx(0.9)
    assert (options.max_instances, options.class_names) == (7, ("giant panda", "red panda"))
    assert len(answer.json["instances"]) == 1


def test_options_may_be_form_fields(http, photo):
    form = {"image": (BytesIO(photo), "p.jpg"), "score_threshold": "0.9", "arm": "b"}
    body = http.post(PREDICT, data=form).json
    assert (body["arm"], len(body["instances"])) == ("b", 1)


@pytest.mark.parametrize(
    ("query", "accept", "kind"),
    [
        ("", None, "application/json"),
        ("", "*/*", "application/json"),
        ("", "image/png", "image/png"),
        ("", "image/webp, image/jpeg;q=0.5", "image/jpeg"),
        ("?format=jpeg", "application/json", "image/jpeg"),
        ("?format=png", None, "image/png"),
        ("?format=png&mask_format=none", None, "image/png"),
    ],
)
def test_format_or_accept_chooses_the_form_of_the_answer(http, photo, query, accept, kind):
    answer = http.post(PREDICT + query, data=photo, headers={"Accept": accept} if accept else {})
    assert (answer.status_code, answer.content_type) == (200, kind)
    if kind.startswith("image/"):
        picture = Image.open(BytesIO(answer.data))
        assert (f"image/{picture.format.lower()}", picture.size) == (kind, SIZE[::-1])


def test_an_accept_that_we_cannot_serve_is_406(http, photo):
    answer = http.post(PREDICT, data=photo, headers={"Accept": "text/csv"})
    assert (answer.status_code, answer.json["code"]) == (406, "not_acceptable")


def test_the_overlay_shows_the_masks(http, photo):
    picture = np.asarray(Image.open(BytesIO(http.post(f"{PREDICT}?format=png", data=photo).data)))
    plain = np.asarray(Image.open(BytesIO(photo)))
    assert (np.abs(picture.astype(int) - plain).max(axis=2) > 8).mean() > 0.1


def test_a_photo_that_is_too_long_for_a_jpeg_is_its_senders_problem(http):
    strip = make_photo((8, 66_000), "PNG")
    answer = http.post(PREDICT, data=strip, query_string={"format": "jpeg"})
    assert (answer.status_code, answer.json["code"]) == (413, "image_too_large")
    assert "Ask for PNG" in answer.json["detail"]
    assert http.post(PREDICT, data=strip, query_string={"format": "png"}).status_code == 200


def test_the_2020_api_answers_a_png_with_the_coverage_in_its_headers(http, photo):
    answer = http.post("/predict", data={"file": (BytesIO(photo), "p.jpg")})
    assert (answer.status_code, answer.content_type) == (200, "image/png")
    assert Image.open(BytesIO(answer.data)).size == SIZE[::-1]
    assert 0 < float(answer.headers["X-Maskserve-Coverage-giant-panda"]) < 1
    assert answer.headers["X-Maskserve-Arm"] in MODELS


def test_the_2020_api_with_the_headers_of_a_browser_still_answers_a_png(http, photo):
    headers = {"Accept": "*/*"}
    assert http.post("/predict", data={"file": (BytesIO(photo), "p.jpg")}, headers=headers).content_type == "image/png"


def test_a_user_id_always_gets_the_same_arm_and_users_are_spread(http, photo):
    arms = {}
    for number in range(24):
        answer = [http.post(PREDICT, data=photo, headers={"X-User-Id": f"user-{number}"}).json for _ in range(2)]
        assert answer[0]["arm"] == answer[1]["arm"]
        assert answer[0]["reason"] == "sticky"
        arms[number] = answer[0]["arm"]
    assert min(Counter(arms.values()).values()) >= 4


def test_the_first_answer_gives_a_cookie_and_the_arm_stays(make_app, photo):
    browser = make_app().test_client()
    first = browser.post(PREDICT, data=photo)
    cookie = first.headers["Set-Cookie"]
    assert first.json["reason"] == "weighted"
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    for _ in range(3):
        later = browser.post(PREDICT, data=photo)
        assert (later.json["arm"], later.json["reason"]) == (first.json["arm"], "sticky")
        assert "Set-Cookie" not in later.headers


def test_strangers_are_dealt_out_by_weight(make_app, photo):
    arms = {"a": {"model": MODELS["a"], "weight": 0}, "b": {"model": MODELS["b"], "weight": 3}}
    stranger = make_app(arms=arms).test_client(use_cookies=False)
    assert {stranger.post(PREDICT, data=photo).json["arm"] for _ in range(8)} == {"b"}


@pytest.mark.parametrize("way", ["query", "header"])
@pytest.mark.parametrize("arm", ["a", "b"])
def test_a_request_may_name_its_arm(http, photo, way, arm):
    query, headers = (f"?arm={arm}", {}) if way == "query" else ("", {"X-Maskserve-Arm": arm})
    body = http.post(PREDICT + query, data=photo, headers={"X-User-Id": "someone"} | headers).json
    assert (body["arm"], body["reason"], body["model"]["name"]) == (arm, "override", MODELS[arm])


def test_names_of_headers_and_cookie_are_settings(make_app, photo):
    names = {"user_header": "X-Visitor", "user_cookie": "visitor", "arm_header": "X-Variant"}
    app = make_app(routing=names).test_client(use_cookies=False)
    assert app.post(PREDICT, data=photo, headers={"X-Visitor": "me"}).json["reason"] == "sticky"
    assert app.post(PREDICT, data=photo, headers={"X-Variant": "b"}).json["reason"] == "override"
    assert app.post(PREDICT, data=photo).headers["Set-Cookie"].startswith("visitor=")


def test_an_arms_version_is_asked_for(make_app, photo, fake_torchserve):
    app = make_app(arms={"a": {"model": MODELS["a"], "version": "1.0", "weight": 1}}).test_client()
    assert app.post(PREDICT, data=photo).status_code == 200
    assert fake_torchserve.calls[-1].version == "1.0"


def test_a_photo_lying_on_its_side_is_answered_upright(http):
    data = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48), "white").save(data, "JPEG", exif=exif)
    answer = http.post(f"{PREDICT}?format=png", data=data.getvalue())
    assert Image.open(BytesIO(answer.data)).size == (48, 64)
