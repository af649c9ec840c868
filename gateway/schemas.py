"""The JSON bodies of the REST API, as pydantic models: the source of the OpenAPI document's schemas.

A test checks that every answer of every route fits its schema, and that a schema knows every member.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Milliseconds = Annotated[float, Field(ge=0)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Rle(Body):
    """COCO compressed RLE: column-major, of the whole image."""

    size: tuple[int, int] = Field(description="[height, width] in px.")
    counts: str = Field(description="ASCII, as pycocotools writes it.")


class InstanceBody(Body):
    """One thing in the photo. Pixels are those of the photo after its EXIF orientation was applied."""

    class_id: int = Field(ge=0)
    class_name: str
    score: Fraction
    box_xyxy: tuple[float, float, float, float] = Field(description="x_min, y_min, x_max, y_max in px.")
    area_px: int = Field(ge=0, description="Pixels of the mask.")
    mask_rle: Rle | None = Field(default=None, description="With mask_format=rle.")
    mask_polygons: list[list[float]] = Field(
        default_factory=list, description="With mask_format=polygon: outlines as [x0, y0, x1, y1, …] in px."
    )


class CoverageBody(Body):
    """Fraction of the photo that is masked; overlapping pixels count once."""

    total: Fraction
    by_class: dict[str, Fraction] = Field(description="Every class of the model is a key.")


class ModelBody(Body):
    name: str
    version: str
    backbone: str
    precision: str
    archive_digest: str = Field(description="sha256 of the archive's weights, config and classes.")


class TimingsBody(Body):
    """Wall time in the worker."""

    decode_ms: Milliseconds
    preprocess_ms: Milliseconds
    inference_ms: Milliseconds
    postprocess_ms: Milliseconds
    total_ms: Milliseconds
    batch_size: int


class ArmAnswer(Body):
    """One arm's answer for one photo."""

    arm: str
    reason: Literal["weighted", "sticky", "override", "fallback"] = Field(
        description="Why this arm: by weight for an unknown user, because of the user's id, because the request named "
        "it, or because the chosen arm was down."
    )
    fallback_from: str | None = Field(description="The arm that should have answered, or null.")
    size: tuple[int, int] = Field(description="[height, width] of the photo in px, after EXIF orientation.")
    instances: list[InstanceBody] = Field(description="Best score first.")
    coverage: CoverageBody
    model: ModelBody
    timings: TimingsBody
    call_ms: Milliseconds = Field(description="Wall time of the call to TorchServe, its queue included.")


class Prediction(ArmAnswer):
    request_id: str
    gateway_ms: Milliseconds = Field(description="Wall time of the whole request in the gateway.")


class MatchBody(Body):
    """`left` and `right` are indices into the two answers' instances."""

    left: int
    right: int
    class_name: str
    mask_iou: Fraction
    score_difference: float


class CoverageDifference(Body):
    total: float
    by_class: dict[str, float]


class LatencyDifference(Body):
    call: float
    inference: float
    total: float


class Comparison(Body):
    """Both arms' answers for one photo. Differences are right minus left."""

    request_id: str
    gateway_ms: Milliseconds
    left: ArmAnswer
    right: ArmAnswer
    matches: list[MatchBody] = Field(description="Same class and a mask IoU of at least 0.5, best first.")
    only_left: list[int]
    only_right: list[int]
    mean_mask_iou: Fraction | None = Field(description="Over the matches; null without any.")
    coverage_difference: CoverageDifference
    latency_difference_ms: LatencyDifference


class ArmBody(Body):
    arm: str
    model: str
    version: str
    weight: float
    required: bool
    ready: bool
    workers_ready: int
    workers_total: int
    why_not: str = Field(description='Why it is not ready; "" when it is.')


class Models(Body):
    arms: list[ArmBody]


class Health(Body):
    status: Literal["ok"]


class NotReady(Body):
    arm: str
    model: str
    why: str


class Readiness(Body):
    ready: bool
    waiting_for: list[NotReady]


class ProblemBody(BaseModel):
    """RFC 9457. Further members may follow, e.g. the arm that failed."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    code: str = Field(description="Stable; made for programs.")
    detail: str = Field(description="Made for people: what is wrong and what to do.")
    request_id: str
    field: str = Field(default="", description="The parameter at fault.")
