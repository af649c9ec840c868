"""The codec: what goes in comes out, and what is out of range is named."""

from __future__ import annotations

import json
import math

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from maskserve.protos import codec
from maskserve.protos import segmentation_pb2 as pb
from maskserve.protos.errors import RequestError
from maskserve.protos.types import (
    Coverage,
    ErrorCode,
    Instance,
    MaskRle,
    ModelInfo,
    Segmentation,
    SegmentOptions,
    Timings,
)

float32 = st.floats(0, 1, width=32)
float64 = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]))
options = st.builds(
    SegmentOptions,
    score_threshold=st.none() | float32,
    max_instances=st.none() | st.integers(1, 1000),
    mask_format=st.sampled_from(["rle", "none"]),
    class_names=st.lists(text, max_size=4).map(tuple),
)
edges = st.floats(-1e6, 1e6, width=32)


@st.composite
def segmentations(draw: st.DrawFn) -> Segmentation:
    size = (draw(st.integers(1, 2**31)), draw(st.integers(1, 2**31)))
    instances = st.builds(
        Instance,
        class_id=st.integers(0, 2**32 - 1),
        class_name=text,
        score=float32,
        box_xyxy=st.tuples(edges, edges, edges, edges),
        area_px=st.integers(0, 2**63),
        mask_rle=st.none() | st.text("0123PQRSTopq", min_size=1).map(lambda counts: MaskRle(size, counts)),
    )
    return Segmentation(
        size=size,
        instances=tuple(draw(st.lists(instances, max_size=4))),
        coverage=Coverage(draw(float64), draw(st.dictionaries(text, float64, max_size=3))),
        model=draw(st.builds(ModelInfo, text, text, text, text, text)),
        timings=draw(st.builds(Timings, *[float64] * 5, st.integers(0, 2**32 - 1))),
    )


@given(options)
@example(SegmentOptions(score_threshold=0.0, max_instances=1))
@example(SegmentOptions(score_threshold=1.0, max_instances=1000))
def test_options_survive_the_wire(given_options: SegmentOptions) -> None:
    """decode(encode(options)) is the options."""
    assert codec.decode_options(codec.encode_options(given_options)) == given_options


@settings(max_examples=60)
@given(segmentations(), text)
def test_segmentations_survive_the_wire(segmentation: Segmentation, request_id: str) -> None:
    """decode(encode(answer)) is the answer, with its request id."""
    assert codec.decode_reply(codec.encode_reply(segmentation, request_id)) == (segmentation, request_id)


@given(st.sampled_from(ErrorCode), text, text, text)
def test_errors_survive_the_wire(code: ErrorCode, message: str, field: str, request_id: str) -> None:
    """An image's error arrives as it was raised."""
    outcome, answered_id = codec.decode_reply(codec.encode_reply(RequestError(code, message, field), request_id))
    assert isinstance(outcome, RequestError)
    assert (outcome.code, outcome.message, outcome.field, answered_id) == (code, message, field, request_id)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_reply_or_a_value_error(data: bytes) -> None:
    """Bytes that are no reply raise ValueError and nothing else."""
    try:
        outcome, _ = codec.decode_reply(data)
    except ValueError:
        return
    assert isinstance(outcome, (Segmentation, RequestError))


@given(st.binary(max_size=60))
def test_any_bytes_are_options_or_a_request_error(data: bytes) -> None:
    """Bytes that are no options are the sender's error."""
    try:
        assert isinstance(codec.decode_options(data), SegmentOptions)
    except RequestError as error:
        assert error.code is ErrorCode.OPTIONS_INVALID  # noqa: PT017


def test_no_bytes_are_the_defaults() -> None:
    """A request without options has the archive's."""
    assert codec.decode_options(b"") == SegmentOptions()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (SegmentOptions(score_threshold=1.01), "score_threshold"),
        (SegmentOptions(score_threshold=-0.1), "score_threshold"),
        (SegmentOptions(score_threshold=math.nan), "score_threshold"),
        (SegmentOptions(max_instances=0), "max_instances"),
        (SegmentOptions(max_instances=1001), "max_instances"),
        (SegmentOptions(mask_format="png"), "mask_format"),  # type: ignore[arg-type]
    ],
)
def test_options_out_of_range_name_their_field(wrong: SegmentOptions, field: str) -> None:
    """The error says which option is wrong, and both sides refuse it."""
    with pytest.raises(RequestError) as caught:
        codec.encode_options(wrong)
    assert (caught.value.code, caught.value.field) == (ErrorCode.OPTIONS_INVALID, field)
    assert field in caught.value.message


def test_unknown_mask_formats_of_newer_clients_are_refused() -> None:
    """A number that the proto does not know is an error of mask_format, not a guess."""
    with pytest.raises(RequestError) as caught:
        codec.decode_options(b"\x18\x63")
    assert caught.value.field == "mask_format"


def test_a_box_without_four_numbers_is_no_answer() -> None:
    """A drifted worker is told apart from a good one."""
    reply = pb.SegmentReply(segmentation=pb.Segmentation(instances=[pb.Instance(box_xyxy=[1, 2, 3])]))
    with pytest.raises(ValueError, match="box_xyxy"):
        codec.decode_reply(reply.SerializeToString())


@settings(max_examples=40)
@given(segmentations())
def test_json_is_json(segmentation: Segmentation) -> None:
    """The JSON form survives json.dumps and keeps sizes, classes and masks."""
    body = json.loads(json.dumps(codec.segmentation_to_json(segmentation)))
    assert body["size"] == list(segmentation.size)
    assert body["model"]["name"] == segmentation.model.name
    for instance, typed in zip(body["instances"], segmentation.instances, strict=True):
        assert instance["class_name"] == typed.class_name
        assert len(instance["box_xyxy"]) == 4
        counts = instance["mask_rle"] and instance["mask_rle"]["counts"]
        assert counts == (typed.mask_rle and typed.mask_rle.counts)


def test_every_code_of_the_proto_has_a_name_and_every_name_a_code() -> None:
    """Enum and proto do not drift apart."""
    names = {name for name, number in pb.ErrorCode.items() if number}
    assert names == {code.name for code in ErrorCode}


def test_decode_error_is_what_protobuf_raises() -> None:
    """The codec catches the exception that the installed protobuf really raises."""
    with pytest.raises(DecodeError):
        pb.SegmentReply.FromString(b"\xff\xff")
