"""Nothing that is sent makes the gateway answer 500, hang or ask an arm in vain."""

from __future__ import annotations

import random
import time

import pytest

from maskserve.protos import wire
from tests.gateway.conftest import make_photo

PREDICT = "/v1/predictions"
FINE = {200, 400, 413, 415, 422}


def mutations(photo: bytes, count: int, seed: int):
    """Photos cut off, with flipped bytes, or with pieces repeated."""
    dice = random.Random(seed)
    for _ in range(count):
        data = bytearray(photo)
        for _ in range(dice.randint(1, 8)):
            at = dice.randrange(len(data))
            match dice.randrange(4):
                case 0:
                    data[at] = dice.randrange(256)
                case 1:
                    del data[at : at + dice.randrange(1, 64)]
                case 2:
                    data[at:at] = data[dice.randrange(len(data)) :][:64]
                case 3:
                    del data[max(1, at) :]
        yield bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("answer_format", ["json", "png"])
def test_damaged_photos_are_answered_or_refused(http, kind, answer_format):
    for number, data in enumerate(mutations(make_photo(kind=kind), 100, seed=1)):
        started = time.monotonic()
        answer = http.post(f"{PREDICT}?format={answer_format}", data=data)
        assert answer.status_code in FINE, (kind, number, answer.text)
        assert time.monotonic() - started < 2


def test_damaged_multipart_bodies_are_answered_or_refused(http, photo):
    whole = b'--line\r\nContent-Disposition: form-data; name="image"; filename="x.jpg"\r\n\r\n' + photo
    for data in mutations(whole + b"\r\n--line--\r\n", 300, seed=2):
        answer = http.post(PREDICT, data=data, content_type="multipart/form-data; boundary=line")
        assert answer.status_code in FINE, answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "multipart/form-data; boundary="},
        {"Content-Type": "multipart/form-data; boundary=" + "x" * 300},
        {"Content-Type": "\xff\xfe"},
        {"Accept": "\xff/,;q=x,*"},
        {"Accept": "image/png;q=2, */*;q=-1"},
        {"Cookie": "maskserve_user=\xff\x7f; ;;=;"},
        {"X-User-Id": "\xff" * 900},
        {"X-Maskserve-Arm": "\xff"},
        {"X-Request-Id": "\xff"},
    ],
)
def test_odd_headers_do_no_harm(http, photo, headers):
    assert http.post(PREDICT, data=photo, headers=headers).status_code in FINE | {406}


@pytest.mark.parametrize(
    "query",
    ["%ff", "arm=%ff%00", "class=%00", "class=" + "x" * 4000, "score_threshold=1e999", "max_instances=" + "9" * 99],
)
def test_odd_parameters_are_refused(http, photo, query):
    assert http.post(f"{PREDICT}?{query}", data=photo).status_code == 400


@pytest.mark.kit
def test_every_bad_image_of_the_kit_is_answered_or_refused_quickly(http, kit):
    files = [path for path in sorted((kit / "bad-images").rglob("*")) if path.is_file()]
    assert len(files) > 30
    for path in files:
        started = time.monotonic()
        answer = http.post(f"{PREDICT}?format=jpeg", data=path.read_bytes())
        assert answer.status_code in FINE, (path, answer.text)
        assert time.monotonic() - started < 5, path


@pytest.mark.kit
def test_every_photo_of_the_kit_is_answered_with_a_picture(http, kit):
    for path in sorted((kit / "photos").rglob("*.jpg")):
        answer = http.post(f"{PREDICT}?format=jpeg&arm=a", data=path.read_bytes())
        assert (answer.status_code, answer.headers["X-Maskserve-Model"]) == (200, wire.MODEL_R50), path
