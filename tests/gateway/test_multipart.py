"""The shorter way for the usual upload finds what werkzeug finds."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.formparser import FormDataParser

from maskserve.gateway.multipart import UploadParser, only_file
from maskserve.gateway.problems import Problem

BOUNDARY = "----formABC123"
HEADER = 'Content-Disposition: form-data; name="image"; filename="photo.jpg"\r\nContent-Type: image/jpeg'


def body_of(content: bytes, header: str | bytes = HEADER, boundary: str = BOUNDARY) -> bytes:
    header = header if isinstance(header, bytes) else header.encode()
    dashes = b"--" + boundary.encode()
    return dashes + b"\r\n" + header + b"\r\n\r\n" + content + b"\r\n" + dashes + b"--\r\n"


def parsed(parser: type[FormDataParser], body: bytes, boundary: str = BOUNDARY):
    """Everything that a request could see; None for a form that cannot be read."""
    options = {"boundary": boundary} if boundary else {}
    reader = parser(stream_factory=lambda **_: BytesIO(), silent=False)
    try:
        _, form, files = reader.parse(BytesIO(body), "multipart/form-data", len(body), options)
    except (ValueError, Problem):
        return None
    seen = [(name, one.filename, one.name, list(one.headers), one.read()) for name, one in files.items(multi=True)]
    return list(form.items(multi=True)), seen


pieces = st.sampled_from([b"\r\n", b"\n", b"\r", b"--", BOUNDARY.encode(), b"-", b"\r\n--" + BOUNDARY.encode(), b"x"])
contents = st.one_of(st.binary(max_size=300), st.lists(pieces, max_size=8).map(b"".join))


@settings(max_examples=300, deadline=None)
@given(contents)
def test_whatever_a_file_holds_it_is_read_as_werkzeug_reads_it(content):
    body = body_of(content)
    assert parsed(UploadParser, body) == parsed(FormDataParser, body)
    if BOUNDARY.encode() not in content:
        assert only_file(body, BOUNDARY).read() == content


@settings(max_examples=300, deadline=None)
@given(contents, st.data())
def test_a_damaged_body_is_read_as_werkzeug_reads_it(content, data):
    body = bytearray(body_of(content))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(body) - 1)))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(pieces)
    assert parsed(UploadParser, bytes(body)) == parsed(FormDataParser, bytes(body))


@pytest.mark.parametrize(
    "header",
    [
        'content-disposition:form-data;name=file;filename="a b.png"',
        "Content-Disposition: form-data; name=\"image\"; filename*=UTF-8''%C3%A4.jpg",
        'Content-Disposition: form-data; name="image"; filename=""',
        'Content-Disposition: form-data; name="image";\r\n filename="continued.jpg"',
        'Content-Disposition: form-data; name="ä"; filename="ö.jpg"',
        'Content-Disposition: form-data; name="text"',
        'Content-Disposition: form-data; filename="nameless.jpg"',
        "Content-Type: image/jpeg",
        "no colon",
        "Content-Disposition: form-data; name=image; filename=x\nX-Other: 1",
        b"\xff\xfe",
    ],
)
def test_whatever_a_part_says_of_itself_is_read_as_werkzeug_reads_it(header):
    body = body_of(b"photo", header)
    assert parsed(UploadParser, body) == parsed(FormDataParser, body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        body_of(b"photo")[:-2],
        body_of(b"photo")[:-6],
        b"preamble\r\n" + body_of(b"photo"),
        body_of(b"photo") + b"epilogue",
        body_of(b"one")[: -len(BOUNDARY) - 6] + body_of(b"two"),
        body_of(b"photo").replace(b"\r\n", b"\n"),
        b"--" + BOUNDARY.encode() + b"--\r\n",
    ],
)
def test_another_form_of_body_is_read_as_werkzeug_reads_it(body):
    assert parsed(UploadParser, body) == parsed(FormDataParser, body)


@pytest.mark.parametrize("boundary", ["", "other", "ä"])
def test_a_wrong_boundary_is_as_with_werkzeug(boundary):
    body = body_of(b"photo")
    assert parsed(UploadParser, body, boundary) == parsed(FormDataParser, body, boundary)
