"""An HTTP request ─▶ the photo's bytes and the checked parameters.

The photo is a multipart file (`image` or `file`) or the whole body, whatever its Content-Type says. Parameters are
query parameters or, in a multipart request, form fields; one that does not exist, or is given twice, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from io import BytesIO
from typing import IO, Any, Literal, TypeVar

from flask import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.datastructures import MIMEAccept

from maskserve.gateway.multipart import UploadParser
from maskserve.gateway.problems import Problem, invalid
from maskserve.protos import wire
from maskserve.protos.errors import RequestError
from maskserve.protos.types import ErrorCode, SegmentOptions

AnswerFormat = Literal["json", "png", "jpeg"]
FILE_FIELDS = ("image", "file")
MAX_BODY_BYTES = wire.MAX_IMAGE_BYTES + 32 * 1024
"""A photo and the multipart lines around it."""

_MEDIA_TYPES: dict[str, AnswerFormat] = {"application/json": "json", "image/png": "png", "image/jpeg": "jpeg"}


class MemoryRequest(Request):
    """Multipart files stay in memory: nothing is written to disk on the request path."""

    form_data_parser_class = UploadParser
    max_content_length = MAX_BODY_BYTES
    max_form_memory_size = 256 * 1024  # werkzeug counts the 64 KiB that it reads at a time in
    max_form_parts = 16

    @cached_property
    def stream(self) -> IO[bytes]:
        """The body, without werkzeug's counting of its bytes when the server has read and counted it already."""
        whole = self.environ.get("wsgi.input_terminated") and isinstance(self.input_stream, BytesIO)
        if whole and (self.content_length or 0) <= MAX_BODY_BYTES:
            return self.input_stream
        return super().stream

    def _get_file_stream(self, *_args: Any, **_kwargs: Any) -> IO[bytes]:
        return BytesIO()


class Parameters(BaseModel):
    """What a request about one photo may choose. The field descriptions are the OpenAPI document's."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=False)

    format: AnswerFormat | None = Field(default=None, description="The answer's form; without it, `Accept` decides.")
    score_threshold: float | None = Field(
        default=None, ge=0, le=1, allow_inf_nan=False, description="Instances with a lower score are left out."
    )
    max_instances: int | None = Field(
        default=None, ge=1, le=1000, description="At most so many instances, the best first."
    )
    mask_format: Literal["rle", "polygon", "none"] = Field(
        default="rle", description="Masks as COCO compressed RLE, as outlines in px (holes filled), or not at all."
    )
    classes: tuple[str, ...] = Field(
        default=(), alias="class", description="Only instances of this class; may be given several times."
    )

    @property
    def options(self) -> SegmentOptions:
        """What the worker is asked for; polygons are made from its RLE."""
        mask_format: Literal["rle", "none"] = "none" if self.mask_format == "none" else "rle"
        return SegmentOptions(self.score_threshold, self.max_instances, mask_format, self.classes)


class PredictionParameters(Parameters):
    arm: str = Field(default="", description="The arm that must answer, instead of the one that routing would choose.")


class ComparisonParameters(Parameters):
    arms: str = Field(
        default="", description="The two arms to compare, as `a,b`; without it, the first two of the settings."
    )


SomeParameters = TypeVar("SomeParameters", bound=Parameters)


def read_photo(request: Request) -> bytes:
    """The uploaded bytes. Raises Problem, RequestError(IMAGE_MISSING) or werkzeug's 413."""
    if request.content_encoding:
        raise Problem(415, "encoding_unsupported", "Send the photo without Content-Encoding.", "Content-Encoding")
    if request.mimetype != "multipart/form-data":
        body = request.get_data(cache=False)
        return body or _missing("Send the photo as the request's body, or as the multipart file `image`.")
    files = [(name, file) for name, file in request.files.items(multi=True) if name in FILE_FIELDS]
    if len(files) > 1:
        raise invalid(files[1][0], "Send one photo per request.", "image_ambiguous")
    if not files:
        return _missing(_why_no_file(request))
    return files[0][1].read() or _missing(f"The file in the field `{files[0][0]}` is empty.")


def read_parameters(request: Request, kind: type[SomeParameters]) -> SomeParameters:
    """The checked parameters. Raises Problem (400) that names the one at fault."""
    many = {field.alias or name for name, field in kind.model_fields.items() if field.annotation == tuple[str, ...]}
    values: dict[str, Any] = {}
    for name, value in _given(request):
        if name in many:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise invalid(name, f"The parameter `{name}` is given twice.")
        else:
            values[name] = value
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _invalid_parameter(kind, error) from None


def choose_format(request: Request, parameters: Parameters, default: AnswerFormat = "json") -> AnswerFormat:
    """`format=`, else the best of `Accept`, else `default`. Raises Problem 406 when `Accept` allows none of ours."""
    if parameters.format:
        return parameters.format
    if request.headers.get("Accept", "*/*") == "*/*":
        return default
    accepted: MIMEAccept = request.accept_mimetypes
    # the default comes first: it wins among equals
    ours = sorted(_MEDIA_TYPES, key=lambda media_type: _MEDIA_TYPES[media_type] != default)
    best = accepted.best_match(ours) if accepted else ours[0]
    if best is None:
        raise Problem(406, "not_acceptable", f"The answer can be {', '.join(_MEDIA_TYPES)}.", "Accept")
    return _MEDIA_TYPES[best]


def _given(request: Request) -> Iterable[tuple[str, str]]:
    yield from request.args.items(multi=True)
    if request.mimetype == "multipart/form-data":
        # a "file" that came as text gets its own message, see read_photo
        yield from (item for item in request.form.items(multi=True) if item[0] not in FILE_FIELDS)


def _invalid_parameter(kind: type[Parameters], error: ValidationError) -> Problem:
    first = error.errors()[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        known = ", ".join(field.alias or name for name, field in kind.model_fields.items())
        return invalid(name, f"There is no parameter `{name}`; there are: {known}.", "parameter_unknown")
    reason = first["msg"].split(", unable")[0]  # "… to parse string as a number" says nothing more
    return invalid(name, f"`{name}`: {reason[0].lower()}{reason[1:]}, not {str(first['input'])[:40]!r}.")


def _why_no_file(request: Request) -> str:
    as_text = next((name for name in FILE_FIELDS if name in request.form), None)
    if as_text:
        return f"The field `{as_text}` is text, not a file; with curl, write -F {as_text}=@photo.jpg (mind the @)."
    others = sorted(filter(None, request.files))  # a part may have no name
    hint = f" (there is `{others[0][:40]}`)" if others else ""
    return f"There is no file in the field `image` or `file`{hint}."


def _missing(text: str) -> bytes:
    raise RequestError(ErrorCode.IMAGE_MISSING, text)
