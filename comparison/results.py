"""What a comparison of two arms says: plain frozen values, written to JSON as they are (`dataclasses.asdict`).

    Comparison
    ├── arms        Arm a, Arm b: what was compared
    ├── origin      Origin: what the photos are to a training
    ├── statistics  Statistics: AP and paired differences, PR curves, calibration, confusion, each photo's score
    ├── cost        Cost: parameters, FLOPs, sizes, memory, latency
    ├── served      Served: AP of the answers that TorchServe gave, beside the offline AP; None without --served
    └── verdict     Verdict: one sentence and its reasons

Every AP is in per cent, None where a split has no instance of that kind. A difference is a − b. Intervals are 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Ap = float | None
ArmName = Literal["a", "b"]
ARM_NAMES: tuple[ArmName, ArmName] = ("a", "b")
ALL_CLASSES = ""
"""The class name of rows and curves that are means over all classes."""


@dataclass(frozen=True)
class Row:
    """One metric of both arms, and the paired bootstrap of its difference."""

    metric: Literal["AP", "AP50", "AP75"]
    class_name: str
    """ALL_CLASSES, or one class."""
    area: Literal["all", "small", "medium", "large"]
    """COCO's object sizes: below 32² px, below 96² px, the rest."""
    instance_count: int
    """Labelled instances of that class and size."""
    a: Ap
    b: Ap
    difference: Ap
    low: Ap
    high: Ap
    """Percentile interval of the difference over resampled photos; None of a class or size on fewer than five."""
    p_a_better: float | None
    """Share of resamples in which a is ahead (a tie counts half), 0..1."""


@dataclass(frozen=True)
class Curve:
    """Interpolated precision at recalls 0, 0.01, …, 1 (101 values, 0..1), COCO's way."""

    arm: ArmName
    class_name: str
    iou: float
    precision: tuple[float, ...]


@dataclass(frozen=True)
class Kind:
    """Boxes or masks."""

    rows: tuple[Row, ...]
    """AP, AP50, AP75 of everything first; then AP and AP50 by class; then AP by size."""
    curves: tuple[Curve, ...]
    """At IoU 0.5 and 0.75, of all classes and of each."""


@dataclass(frozen=True)
class Confusion:
    """What became of the labelled instances of a class, and of the answers of that class, at one score threshold.

    found + wrong_class + missed = labelled; found + wrong_class_answers + doubled + spurious = answers.
    """

    arm: ArmName
    class_name: str
    labelled: int
    answers: int
    found: int
    """Labelled instances with an answer of the right class at mask IoU ≥ 0.5."""
    wrong_class: int
    """… with an answer of another class only."""
    missed: int
    doubled: int
    """Further answers for an instance that was found already."""
    spurious: int
    """Answers where nothing is labelled."""
    wrong_class_answers: int
    """Answers of this class on an instance of another."""


@dataclass(frozen=True)
class Bin:
    """Answers whose scores fall into one interval: well calibrated when precision equals the mean score."""

    low: float
    high: float
    count: int
    mean_score: float
    precision: float


@dataclass(frozen=True)
class Calibration:
    """Reliability of one arm's scores; an answer is right when it matches an instance of its class at mask IoU 0.5."""

    arm: ArmName
    bins: tuple[Bin, ...]
    expected_error: float
    """Expected calibration error, 0..1: mean |precision − score|, weighted by counts (Naeini et al., 2015)."""


@dataclass(frozen=True)
class Photo:
    """How well each arm did on one photo."""

    image_id: int | str
    file_name: str
    instance_count: int
    a: float
    b: float
    """Panoptic-style quality of masks, 0..1: Σ IoU of matched pairs / (TP + FP/2 + FN/2) at the score threshold
    (PQ of Kirillov et al., 2019, with overlapping masks allowed); 1 for an empty photo without answers."""


@dataclass(frozen=True)
class Statistics:
    split: str
    data: str
    """The manifest's path."""
    data_hash: str
    """SHA-256 of that file; an import's own data hash (see Origin) is one for all of its splits."""
    image_count: int
    instances: Mapping[str, int]
    """By class."""
    score_threshold: float
    """For confusion and photos; AP looks at every score."""
    resamples: int
    seed: int
    box: Kind
    mask: Kind
    confusion: tuple[Confusion, ...]
    calibration: tuple[Calibration, ...]
    photos: tuple[Photo, ...]
    """In the manifest's order."""


@dataclass(frozen=True)
class ArmCost:
    """What one arm needs on this machine."""

    parameters: int
    flops: int
    """Of one photo at `input_size`; a multiply-add counts as two."""
    input_size: tuple[int, int]
    """(height, width) that the network sees: the median photo of the split."""
    weights_bytes: int
    archive_bytes: int
    memory_bytes: int
    """Peak resident memory of a fresh process that loads the arm and answers photos of the split."""
    latency_ms: tuple[float, ...]
    """One photo each, network and pasting of masks, in the order measured."""
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Cost:
    a: ArmCost
    b: ArmCost
    speed_ratio: float
    """Median over paired photos of (latency of a / latency of b): above 1, b is faster."""
    speed_ratio_low: float
    speed_ratio_high: float
    """Bootstrap interval of that median over the pairs."""
    machine: str
    """Processor, cores, device, torch version and threads."""


@dataclass(frozen=True)
class ServedArm:
    """AP of the answers that came back through gRPC, beside that of the same weights offline."""

    arm: ArmName
    model: str
    version: str
    archive_digest: str
    same_weights: bool
    """Whether the served archive holds this run's weights."""
    mask_ap: Ap
    mask_ap_offline: Ap
    box_ap: Ap
    box_ap_offline: Ap
    round_trip_p50_ms: float
    round_trip_p95_ms: float


@dataclass(frozen=True)
class Served:
    address: str
    arms: tuple[ServedArm, ...]
    tolerance: float
    """AP points within which served and offline count as equal."""
    equal: bool


@dataclass(frozen=True)
class Verdict:
    sentence: str
    """For somebody who reads nothing else."""
    reasons: tuple[str, ...]
    decided: bool
    """False when there are too few photos to tell which arm is more accurate."""
    photos_needed: int | None
    """About how many test photos would settle a difference of the size seen, at 95 % with 80 % power; None when
    decided, or when no number of photos would do."""


@dataclass(frozen=True)
class ArmFacts:
    """One of the two trained runs."""

    name: ArmName
    label: str
    """What sentences call it: the network where the two differ in it, else what differs in the runs' paths."""
    run: str
    model: str
    """Its name in TorchServe, unless it is packaged under another."""
    backbone: str
    """The network in words: depth, width, FPN, input size."""
    init: str
    """What it started from, in words; of a half-width or other unusual network, that too."""
    precision: str
    """What it answers in: "fp32", "bf16" or "int8"; a run folder always in fp32."""
    preset: str
    steps: int
    train_s: float
    facts: Mapping[str, Any]
    """run.json, whole."""


@dataclass(frozen=True)
class Origin:
    """What the photos are to a training: of which data set, and which split of it."""

    data_hash: str
    """As a training on that data set has it in run.json."""
    split: str


@dataclass(frozen=True)
class Comparison:
    a: ArmFacts
    b: ArmFacts
    origin: Origin
    statistics: Statistics
    cost: Cost
    served: Served | None
    verdict: Verdict
    made: str
    """UTC, ISO 8601."""
    versions: Mapping[str, str]
    """Of Python and the libraries that computed it."""
