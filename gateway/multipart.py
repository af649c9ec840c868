"""A multipart body with one file, as browsers and curl send a photo ─▶ the file, found with two searches for bytes.

werkzeug copies such a body in pieces and looks at the last piece with a regular expression, which was a quarter of the
gateway's time for a request. Whatever looks different, be it a second part or a stray line, is left to werkzeug.
"""

from __future__ import annotations

from io import BytesIO
from typing import IO, Any

from werkzeug.datastructures import FileStorage, Headers, MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

from maskserve.gateway.problems import form_too_large, form_unreadable

_HEADER_BYTES = 4096


class UploadParser(FormDataParser):
    """werkzeug's, with a shorter way for the usual upload.

    Raises Problem for a form beyond werkzeug's limits (413), and one that cannot be read (400), of which werkzeug makes
    an empty one.
    """

    def parse(
        self, stream: IO[bytes], mimetype: str, content_length: int | None, options: dict[str, str] | None = None
    ) -> tuple[IO[bytes], MultiDict[str, str], MultiDict[str, FileStorage]]:
        if mimetype != "multipart/form-data":
            return super().parse(stream, mimetype, content_length, options)
        body = stream.read()
        boundary = (options or {}).get("boundary", "")
        file = only_file(body, boundary)
        if file is not None:
            return stream, self.cls(), self.cls([(file.name or "", file)])
        self.silent = False
        try:
            return super().parse(BytesIO(body), mimetype, content_length, options)
        except RequestEntityTooLarge:  # the photo may be small
            raise form_too_large(self.max_form_parts, self.max_form_memory_size) from None
        except ValueError as error:
            raise form_unreadable(error, boundary) from None


def only_file(body: bytes, boundary: str) -> FileStorage | None:
    """The file of a body that has exactly one part, and that a file; None for every other body."""
    try:
        dashes = b"--" + boundary.encode("ascii")
    except UnicodeEncodeError:
        return None
    first, last = dashes + b"\r\n", b"\r\n" + dashes + b"--"
    end = len(body) - len(last) - (2 if body.endswith(b"\r\n") else 0)
    header_end = body.find(b"\r\n\r\n", 0, _HEADER_BYTES)
    is_one_part = (
        boundary
        and body.startswith(first)
        and len(first) <= header_end <= end - 4
        and body.startswith(last, end)
        and body.find(dashes, len(first)) == end + 2
    )
    return _file(body[len(first) : header_end], body[header_end + 4 : end]) if is_one_part else None


def _file(header: bytes, content: bytes) -> FileStorage | None:
    # the name of the file is not used, and may be in the encoding of the sender's machine
    lines = header.decode(errors="replace").split("\r\n")
    # an empty line, one that continues another, or one that ends in another way
    if any(line[:1] in ("", " ", "\t") or "\r" in line or "\n" in line for line in lines):
        return None
    parts = [line.partition(":") for line in lines]
    headers = Headers([(name.strip(" \t"), value.strip(" \t")) for name, _, value in parts])
    _, given = parse_options_header(headers.get("Content-Disposition"))
    known: dict[str, Any] = {key: given.get(key) for key in ("name", "filename")}
    if None in known.values():
        return None
    return FileStorage(BytesIO(content), headers=headers, **known)
