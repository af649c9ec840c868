"""What goes wrong is answered as problem+json, with an honest status and a stable code."""

from __future__ import annotations

import re
import threading
import time
import zlib
from io import BytesIO

import pytest

from maskserve.client.errors import ServerError
from maskserve.gateway.problems import SERVER_TEXTS
from maskserve.gateway.upload import MAX_BODY_BYTES
from maskserve.protos import wire
from tests.fakes.torchserve import FAULTS
from tests.gateway.conftest import make_photo
from tests.waiting import until

PREDICT = "/v1/predictions"
ON_A = f"{PREDICT}?arm=a"


def check(answer, status, code):
    """Asserts the problem's form; returns its body."""
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json"), answer.data
    body = answer.json
    assert (body["status"], body["code"], body["type"]) == (status, code, f"urn:maskserve:problem:{code}")
    assert body["request_id"] == answer.headers["X-Request-Id"]
    assert body["title"]
    assert re.fullmatch(r"[A-Z`].*\.", body["detail"]), body["detail"]
    if status == 503:
        assert int(answer.headers["Retry-After"]) > 0
    return body


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims any size."""
    chunk = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    pixels = b"IDAT" + zlib.compress(bytes(99))
    chunks = ((len(one) - 4).to_bytes(4, "big") + one + zlib.crc32(one).to_bytes(4, "big") for one in (chunk, pixels))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def multipart(data: bytes) -> dict[str, object]:
    """The file `image` as a multipart body; werkzeug's own encoder leaves a temporary file open for big ones."""
    head = b'--line\r\nContent-Disposition: form-data; name="image"; filename="x.jpg"\r\n\r\n'
    return {"data": head + data + b"\r\n--line--\r\n", "content_type": "multipart/form-data; boundary=line"}


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "image_missing"),
        (b"hello", 415, "image_unsupported"),
        (b"GIF89a" + bytes(40), 415, "image_unsupported"),
        (png_header(10_000, 10_000), 413, "image_too_large"),
        (b"\xff\xd8\xff" + bytes(20), 422, "image_unreadable"),
        (bytes(wire.MAX_IMAGE_BYTES + 1), 413, "image_too_large"),
        (bytes(wire.MAX_IMAGE_BYTES + 100_000), 413, "image_too_large"),
    ],
)
@pytest.mark.parametrize("form", ["raw", "multipart"])
def test_a_bad_photo_is_the_senders_fault_and_no_arm_is_asked(http, fake_torchserve, data, status, code, form):
    check(http.post(PREDICT, **(multipart(data) if form == "multipart" else {"data": data})), status, code)
    assert not fake_torchserve.calls


def test_a_hundred_megapixels_are_refused_by_the_header(http):
    bomb = png_header(10_000, 10_000)  # a header and no pixels: who decodes it answers 422
    detail = check(http.post(PREDICT, data=bomb), 413, "image_too_large")["detail"]
    assert "100.0 megapixels" in detail


def test_a_photo_that_turns_out_damaged_in_the_worker_is_422(http, photo):
    check(http.post(PREDICT, data=photo[: len(photo) // 2]), 422, "image_unreadable")


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ("score_threshold=2", "parameter_invalid", "score_threshold"),
        ("score_threshold=nan", "parameter_invalid", "score_threshold"),
        ("score_threshold=", "parameter_invalid", "score_threshold"),
        ("max_instances=0", "parameter_invalid", "max_instances"),
        ("max_instances=1.5", "parameter_invalid", "max_instances"),
        ("mask_format=png", "parameter_invalid", "mask_format"),
        ("format=gif", "parameter_invalid", "format"),
        ("score_treshold=0.5", "parameter_unknown", "score_treshold"),
        ("arm=a&arm=b", "parameter_invalid", "arm"),
        ("arm=z", "arm_unknown", "arm"),
        ("class=zebra", "options_invalid", "class"),
    ],
)
def test_a_wrong_parameter_is_named(http, photo, query, code, field):
    assert check(http.post(f"{PREDICT}?{query}", data=photo), 400, code)["field"] == field


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("format=gif", "should be 'json', 'png' or 'jpeg', not 'gif'."),
        ("mask_format=png", "should be 'rle', 'polygon' or 'none', not 'png'."),
        ("score_threshold=x", "should be a valid number, not 'x'."),
        ("max_instances=1.5", "should be a valid integer, not '1.5'."),
        ("max_instances=0", "should be greater than or equal to 1, not '0'."),
    ],
)
def test_a_wrong_parameters_problem_says_all_that_it_may_be(http, photo, query, words):
    detail = check(http.post(f"{PREDICT}?{query}", data=photo), 400, "parameter_invalid")["detail"]
    assert detail.endswith(words)


def test_an_arm_header_that_names_no_arm_is_refused(http, photo):
    answer = http.post(PREDICT, data=photo, headers={"X-Maskserve-Arm": "z"})
    assert check(answer, 400, "arm_unknown")["field"] == "X-Maskserve-Arm"


def test_two_photos_in_one_request_are_refused(http, photo):
    form = {"image": (BytesIO(photo), "1.jpg"), "file": (BytesIO(photo), "2.jpg")}
    check(http.post(PREDICT, data=form), 400, "image_ambiguous")


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"image": "photo.jpg"}, "image=@"),
        ({"img": (BytesIO(b"x"), "x.jpg")}, "there is `img`"),
        ({"score_threshold": "0.5"}, "no file in the field `image` or `file`"),
    ],
)
def test_a_multipart_request_without_a_photo_says_how_to_send_one(http, form, words):
    answer = http.post(PREDICT, data=form, content_type="multipart/form-data")
    assert words in check(answer, 400, "image_missing")["detail"]


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (slice(None), "multipart/form-data", "no boundary"),  # a header set by hand
        (slice(None), "multipart/form-data; boundary=other", "another boundary"),
        (slice(-12), "multipart/form-data; boundary=line", "cut off"),
    ],
)
def test_a_form_that_cannot_be_read_is_not_called_one_without_a_photo(http, photo, body, content_type, words):
    answer = http.post(PREDICT, data=multipart(photo)["data"][body], content_type=content_type)
    assert words in check(answer, 400, "bad_request")["detail"]


def test_the_name_of_the_file_may_be_in_any_encoding_or_left_out_with_the_field(http, photo):
    form = multipart(photo)
    named = form | {"data": form["data"].replace(b"x.jpg", "für.jpg".encode("latin-1"))}
    assert http.post(PREDICT, **named).status_code == 200
    two_parts = named["data"].replace(
        b"--line", b'--line\r\nContent-Disposition: form-data; name="arm"\r\n\r\na\r\n--line', 1
    )
    detail = check(http.post(PREDICT, **named | {"data": two_parts}), 400, "bad_request")["detail"]
    assert "no UTF-8" in detail
    check(http.post(PREDICT, **form | {"data": form["data"].replace(b' name="image";', b"")}), 400, "image_missing")


def test_a_compressed_body_is_refused(http, photo):
    check(http.post(PREDICT, data=photo, headers={"Content-Encoding": "gzip"}), 415, "encoding_unsupported")


@pytest.mark.parametrize("terminated", [False, True])
@pytest.mark.parametrize("extra_bytes", [1, 1_000_000])
def test_a_body_beyond_the_limit_is_refused_whether_the_server_has_read_it_or_not(http, terminated, extra_bytes):
    answer = http.post(
        PREDICT, data=bytes(MAX_BODY_BYTES + extra_bytes), environ_overrides={"wsgi.input_terminated": terminated}
    )
    check(answer, 413, "image_too_large")


@pytest.mark.parametrize("fields", [{"class": ["red panda"] * 50}, {"class": "x" * 300_000}])
def test_a_form_that_is_too_large_beside_its_photo_is_refused_as_such(http, photo, fields):
    form = fields | {"image": (BytesIO(photo), "p.jpg")}
    detail = check(http.post(PREDICT, data=form), 413, "request_too_large")["detail"]
    assert "16 parts and 256 KiB in a text field" in detail
    assert http.post(f"{PREDICT}?{'&class=red+panda' * 50}", data=photo).status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/v1/", "/page/../app.py", "/page/nothing.js"])
def test_an_unknown_address_is_404(http, path):
    check(http.get(path), 404, "not_found")


@pytest.mark.parametrize("path", [PREDICT, "/predict", "/v1/compare"])
def test_another_method_is_405_and_says_which_one_is_right(http, path):
    answer = http.get(path)
    assert "POST" in check(answer, 405, "method_not_allowed")["detail"]
    assert "POST" in answer.headers["Allow"]


FAULT_STATUS = {
    "worker_died": (503, "worker_died"),
    "worker_killed": (503, "worker_died"),
    "handler_failed": (502, "handler_failed"),
    "out_of_memory": (503, "out_of_memory"),
    "no_memory": (503, "out_of_memory"),
    "inference_failed": (502, "inference_failed"),
    "batch_mismatch": (502, "contract_drifted"),
    "invalid_output": (502, "contract_drifted"),
    "overloaded": (503, "overloaded"),
    "request_cut_off": (413, "request_too_large"),
    "unavailable": (503, "unavailable"),
    "frontend_failed": (503, "unavailable"),
    "drifted": (502, "contract_drifted"),
    "garbage": (502, "contract_drifted"),
    "empty_reply": (502, "contract_drifted"),
    "wrong_id": (502, "contract_drifted"),
    "reply_too_large": (502, "reply_too_large"),
}


def test_every_fault_of_the_fake_has_a_status_here():
    assert set(FAULTS) <= set(FAULT_STATUS)


@pytest.mark.parametrize("fault", FAULT_STATUS)
def test_a_fault_of_torchserve_gets_its_status_and_none_of_its_words(http, photo, fake_torchserve, fault):
    fake_torchserve.play(wire.MODEL_R50, fault, fault)
    answer = http.post(ON_A, data=photo)
    body = check(answer, *FAULT_STATUS[fault])
    assert body["arm"] == "a"
    assert f'maskserve_failures_total{{arm="a",code="{body["code"]}"}} 1.0' in http.get("/metrics").text
    text = answer.text.lower()
    assert not [
        word for word in ("org.pytorch", "exception", "rst_stream", "has no worker", "traceback") if word in text
    ]


def test_every_code_of_the_client_has_words():
    def codes(kind):
        yield from (one.code for one in kind.__subclasses__())

    assert set(codes(ServerError)) - {"contract_drifted"} == set(SERVER_TEXTS)


def test_a_model_that_does_not_answer_in_time_is_504(make_app, photo, fake_torchserve):
    app = make_app(torchserve={"timeout_s": 0.3}).test_client()
    fake_torchserve.play(wire.MODEL_R50, "hang")
    started = time.monotonic()
    check(app.post(ON_A, data=photo), 504, "timeout")
    assert time.monotonic() - started < 1


def test_a_request_without_time_left_is_504_and_says_nothing_about_the_arm(make_app, photo, fake_torchserve):
    app = make_app(torchserve={"timeout_s": 1e-9}).test_client()
    for _ in range(10):
        check(app.post(ON_A, data=photo), 504, "timeout")
    assert not fake_torchserve.attempts[wire.MODEL_R50]
    assert "maskserve_failures_total{" not in app.get("/metrics").text


@pytest.mark.parametrize("fault", ["overloaded", "unavailable", "out_of_memory", "no_memory"])
def test_another_arm_answers_when_the_chosen_one_is_down_and_says_so(http, photo, fake_torchserve, fault):
    user = {"X-User-Id": "someone"}
    own = http.post(PREDICT, data=photo, headers=user).json
    # the client itself tries a fault of the infrastructure twice, but a full queue only once
    fake_torchserve.play(own["model"]["name"], *[fault] * (1 if fault == "overloaded" else 2))
    answer = http.post(PREDICT, data=photo, headers=user)
    body = answer.json
    assert (body["reason"], body["fallback_from"]) == ("fallback", own["arm"])
    assert body["arm"] != own["arm"]
    assert body["model"]["name"] != own["model"]["name"]
    assert answer.headers["X-Maskserve-Fallback-From"] == own["arm"]
    back = http.post(PREDICT, data=photo, headers=user).json
    assert (back["arm"], back["reason"]) == (own["arm"], "sticky")


def test_a_model_that_is_not_loaded_falls_back(make_app, photo):
    arms = {"a": {"model": "no_such_model", "weight": 1e9}, "b": {"model": wire.MODEL_MNV2, "weight": 1e-9}}
    body = make_app(arms=arms).test_client().post(PREDICT, data=photo).json
    assert (body["arm"], body["reason"], body["fallback_from"]) == ("b", "fallback", "a")


def test_a_named_arm_that_is_down_is_not_replaced(http, photo, fake_torchserve):
    fake_torchserve.set_ready(wire.MODEL_R50, False)
    check(http.post(ON_A, data=photo), 503, "overloaded")


def test_a_named_arm_is_replaced_when_the_settings_say_so(make_app, photo, fake_torchserve):
    fake_torchserve.set_ready(wire.MODEL_R50, False)
    body = make_app(routing={"fallback_on_override": True}).test_client().post(ON_A, data=photo).json
    assert (body["arm"], body["reason"], body["fallback_from"]) == ("b", "fallback", "a")


def test_without_fallback_the_users_of_a_dead_arm_get_503(make_app, photo, fake_torchserve):
    app = make_app(routing={"fallback": False}).test_client(use_cookies=False)
    fake_torchserve.set_ready(wire.MODEL_R50, False)
    answers = [app.post(PREDICT, data=photo, headers={"X-User-Id": str(number)}) for number in range(12)]
    assert {answer.status_code for answer in answers} == {200, 503}


def test_a_photo_that_kills_a_worker_is_not_tried_on_the_other_arm(http, photo, fake_torchserve):
    user = {"X-User-Id": "someone"}
    own = http.post(PREDICT, data=photo, headers=user).json["model"]["name"]
    calls = len(fake_torchserve.calls)
    fake_torchserve.play(own, "worker_died", "worker_died")
    for _ in range(2):  # the second is not sent at all, and trying again soon is no advice
        problem = check(http.post(PREDICT, data=photo, headers=user), 503, "worker_died")
        assert "refused for ten minutes" in problem["detail"]
    assert [call.model for call in fake_torchserve.calls[calls:]] == [own, own]


def test_an_arm_that_keeps_failing_is_left_alone_for_a_moment(http, photo, fake_torchserve):
    fake_torchserve.set_ready(wire.MODEL_R50, False)
    for _ in range(5):
        check(http.post(ON_A, data=photo), 503, "overloaded")
    asked = fake_torchserve.attempts[wire.MODEL_R50]
    check(http.post(ON_A, data=photo), 503, "arm_unavailable")
    assert fake_torchserve.attempts[wire.MODEL_R50] == asked
    fake_torchserve.set_ready(wire.MODEL_R50, True)
    assert until(lambda: http.post(ON_A, data=photo).status_code == 200, at_most_s=4)


def test_an_arm_that_failed_is_not_tried_again_before_it_has_a_worker(make_app, photo, fake_torchserve):
    """TorchServe would let the request wait for the worker, past its deadline, instead of the other arm's answer."""
    app = make_app(routing={"fallback_on_override": True})
    http, breaker = app.test_client(), app.extensions["maskserve"].dispatcher._arms["a"].breaker
    fake_torchserve.set_ready(wire.MODEL_R50, False)
    assert http.get("/readyz").status_code == 503
    for _ in range(5):
        breaker.failed()
    breaker._retry_at = 0.0
    assert http.post(ON_A, data=photo).json["arm"] == "b"
    assert not fake_torchserve.attempts[wire.MODEL_R50]
    fake_torchserve.set_ready(wire.MODEL_R50, True)
    assert until(lambda: http.post(ON_A, data=photo).json["arm"] == "a", at_most_s=10)


def test_both_arms_down_is_one_503_about_the_chosen_arm(http, photo, fake_torchserve):
    for model in (wire.MODEL_R50, wire.MODEL_MNV2):
        fake_torchserve.set_ready(model, False)
    check(http.post(PREDICT, data=photo), 503, "overloaded")


def test_torchserve_gone_is_503(http, photo, fake_torchserve):
    fake_torchserve.stop()
    check(http.post(PREDICT, data=photo), 503, "unavailable")


def test_a_full_arm_sheds_at_once_and_the_other_arm_does_not_notice(make_app, photo, fake_torchserve):
    app = make_app(limits={"in_flight_per_arm": 1})
    fake_torchserve.delay_s = 0.6
    first = threading.Thread(target=lambda: app.test_client().post(ON_A, data=photo))
    first.start()
    time.sleep(0.2)
    check(app.test_client().post(ON_A, data=photo), 503, "too_many_requests")
    assert first.is_alive()  # the one that was there before has not been waited for
    assert app.test_client().post(f"{PREDICT}?arm=b", data=photo).status_code == 200
    first.join()
    assert app.test_client().post(ON_A, data=photo).status_code == 200


def test_pictures_beyond_the_easels_queue_are_refused_at_once_and_json_is_not(make_app, photo, fake_torchserve):
    app = make_app(limits={"in_flight_per_arm": 1})  # two places at the two arms
    easel = app.extensions["maskserve"].easel
    pictures = [
        threading.Thread(target=app.test_client().post, args=(f"/predict?arm={arm}",), kwargs={"data": photo})
        for arm in "ab"
    ]
    with easel._place(time.monotonic() + 9):
        for picture in pictures:
            picture.start()
        assert until(lambda: len(fake_torchserve.calls) == 2)
        for path in ("/predict", "/v1/compare?format=png"):
            assert "JSON" in check(app.test_client().post(path, data=photo), 503, "too_many_requests")["detail"]
        assert len(fake_torchserve.calls) == 2
        assert all(picture.is_alive() for picture in pictures)
        assert until(lambda: app.test_client().post(ON_A, data=photo).status_code == 200)
    for picture in pictures:
        picture.join()
    assert app.test_client().post("/predict", data=photo).status_code == 200


def test_a_bug_is_500_with_the_request_id_and_its_traceback_is_in_the_log(make_app, photo, caplog, monkeypatch):
    app = make_app()
    gateway = app.extensions["maskserve"]
    monkeypatch.setattr(gateway.easel, "_places", None)
    answer = app.test_client().post(f"{PREDICT}?format=png", data=photo)
    body = check(answer, 500, "internal_error")
    assert "NoneType" not in answer.text
    assert body["request_id"] in caplog.text
    assert "Traceback" in caplog.text


def test_a_twelve_megapixel_photo_works(http):
    answer = http.post(f"{ON_A}&format=jpeg", data=make_photo((3000, 4000)))
    assert (answer.status_code, answer.content_type) == (200, "image/jpeg")
