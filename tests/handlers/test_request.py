"""One row of TorchServe's batch becomes a photo with options, or an error for its sender."""

from __future__ import annotations

import pytest

from maskserve.handlers.request import read_envelope, read_photo
from maskserve.protos.codec import encode_options
from maskserve.protos.errors import RequestError
from maskserve.protos.types import ErrorCode, SegmentOptions


def seen_at(size: tuple[int, int]) -> tuple[int, int]:
    """A network that sees photos as they are."""
    return size


def test_grpc_row_carries_bytes_options_and_id(photo: bytes) -> None:
    """The keys of the contract arrive as bytearrays and become pixels, options and an id."""
    options = SegmentOptions(score_threshold=0.25, max_instances=3, mask_format="none", class_names=("red panda",))
    row = {"image": bytearray(photo), "options": bytearray(encode_options(options)), "request_id": bytearray(b"r-1")}
    read = read_photo(row, seen_at)
    assert read.pixels.shape == (90, 120, 3)
    assert read.size == (90, 120)
    assert read.options == options
    assert read_envelope(row).request_id == "r-1"
    assert not read_envelope(row).as_json


@pytest.mark.parametrize("key", ["body", "data"])
def test_rest_row_is_answered_in_json_and_takes_options_from_the_form(photo: bytes, key: str) -> None:
    """TorchServe's REST keys work, with the form's other fields beside them."""
    row = {
        key: bytearray(photo),
        "score_threshold": bytearray(b"0.1"),
        "max_instances": "2",
        "mask_format": bytearray(b"none"),
        "class_names": bytearray(b"red panda, giant panda,"),
    }
    assert read_envelope(row).as_json
    assert read_photo(row, seen_at).options == SegmentOptions(0.1, 2, "none", ("red panda", "giant panda"))


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({}, ErrorCode.IMAGE_MISSING),
        ({"image": b""}, ErrorCode.IMAGE_MISSING),
        ({"file": b"\xff\xd8\xff"}, ErrorCode.IMAGE_MISSING),
        ({"body": {"an": "object"}}, ErrorCode.IMAGE_UNSUPPORTED),
        ({"body": "text"}, ErrorCode.IMAGE_UNSUPPORTED),
        ({"image": b"GIF89a"}, ErrorCode.IMAGE_UNSUPPORTED),
        ({"image": b"\xff\xd8\xff\xe0 and no more"}, ErrorCode.IMAGE_UNREADABLE),
    ],
)
def test_a_row_without_a_usable_image_is_its_senders_error(row: dict[str, object], code: ErrorCode) -> None:
    """Each way of not sending an image has its code."""
    with pytest.raises(RequestError) as raised:
        read_photo(row, seen_at)
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"image": b"", "options": b"\xff\xff"}, "options"),
        ({"body": b"", "score_threshold": b"high"}, "score_threshold"),
        ({"body": b"", "score_threshold": b"nan"}, "score_threshold"),
        ({"body": b"", "max_instances": b"2.5"}, "max_instances"),
        ({"body": b"", "max_instances": b"0"}, "max_instances"),
        ({"body": b"", "mask_format": b"png"}, "mask_format"),
    ],
)
def test_bad_options_are_named_before_the_image_is_read(row: dict[str, object], field: str) -> None:
    """The option at fault is in the error, although the image is missing too."""
    with pytest.raises(RequestError) as raised:
        read_photo(row, seen_at)
    assert (raised.value.code, raised.value.field) == (ErrorCode.OPTIONS_INVALID, field)


def test_a_hostile_request_id_is_cut_and_never_raises() -> None:
    """An id is echoed and logged: 200 characters of it, whatever its bytes are."""
    assert len(read_envelope({"request_id": b"\xff" * 10_000_000}).request_id) == 200
    assert read_envelope({"request_id": {"not": "bytes"}}).request_id == ""
