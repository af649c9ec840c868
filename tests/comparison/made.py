"""A comparison made by hand: every kind of row, two classes of which one has a hostile name, numbers easy to find."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from maskserve.comparison.pictures import Gallery, Panel, Shown
from maskserve.comparison.results import (
    ALL_CLASSES,
    ARM_NAMES,
    ArmCost,
    ArmFacts,
    Bin,
    Calibration,
    Comparison,
    Confusion,
    Cost,
    Curve,
    Kind,
    Origin,
    Photo,
    Row,
    Served,
    ServedArm,
    Statistics,
    Verdict,
)

HOSTILE = "<script>alert('panda')</script> $x^2$"
CLASSES = ("giant panda", HOSTILE)
SENTENCE = "MobileNetV2 is 2.93× faster and loses 4.1 [1.2, 7.3] mask AP points."


def make_comparison(*, served: bool | None = True, decided: bool = True) -> Comparison:
    """`served`: equal, not equal, or None: not asked."""
    return Comparison(
        a=_facts("a", "half-width ResNet-50", "thin.pth", 3000),
        b=_facts("b", "MobileNetV2", "mobile.pth", 3000),
        origin=Origin("d" * 64, "test"),
        statistics=_statistics(),
        cost=Cost(_cost(310.0), _cost(105.8), 2.93, 2.81, 3.07, "A processor, 2 cores, no GPU; torch 2 with 2 threads"),
        served=None if served is None else _served(equal=served),
        verdict=Verdict(
            sentence=SENTENCE,
            reasons=(f"On {HOSTILE} the difference is not distinguishable from zero: 0.4 [−2.0, 2.9].",),
            decided=decided,
            photos_needed=None if decided else 1234,
        ),
        made="2026-01-02T03:04:05+00:00",
        versions={"python": "3.11", "torch": "2.15"},
    )


def make_galleries() -> list[Gallery]:
    photo = _photos()[0]
    jpeg = cv2.imencode(".jpg", np.full((30, 40, 3), 90, np.uint8))[1].tobytes()
    panels = tuple(Panel(who, jpeg, 30, 40, f"1 {HOSTILE}") for who in ("labels", "a", "b"))
    return [
        Gallery("Where the arms differ most", (Shown(photo, panels),)),
        Gallery("Best of MobileNetV2", (Shown(photo, ()),)),
    ]


def _facts(name, label, source, steps):
    facts = {
        "model": f"model_{name}",
        "data_hash": "d" * 64,
        "seed": 1,
        "steps": steps,
        "preset": "standard",
        "overrides": ["SOLVER.BASE_LR", "0.01"],
    }
    return ArmFacts(
        name=name,
        label=label,
        run=f"runs/model_{name}",
        model=f"model_{name}",
        backbone=f"{label}, FPN of 128 channels, photos at 480 px (short side)",
        init=f"ImageNet-trained {label}: {source}",
        precision="fp32",
        preset="standard",
        steps=steps,
        train_s=1234.0,
        facts=facts,
    )


def _statistics() -> Statistics:
    return Statistics(
        split="test",
        data="/data/pandas/test.json",
        data_hash="e" * 64,
        image_count=48,
        instances={"giant panda": 61, HOSTILE: 7},
        score_threshold=0.5,
        resamples=2000,
        seed=0,
        box=_kind(0.5),
        mask=_kind(0.0),
        confusion=tuple(
            Confusion(
                arm, name, 40, 44, found=31, wrong_class=2, missed=7, doubled=5, spurious=6, wrong_class_answers=2
            )
            for arm in ARM_NAMES
            for name in CLASSES
        ),
        calibration=tuple(
            Calibration(arm, tuple(_bin(low / 10, shift) for low in range(10)), 0.05 + shift)
            for arm, shift in (("a", 0.02), ("b", -0.06))
        ),
        photos=_photos(),
    )


def _kind(shift: float) -> Kind:
    all_rows = [
        replace(_row("AP", 4.1, 1.2, 7.3), a=51.3 + shift, b=47.2 + shift),
        _row("AP50", 2.0, -0.5, 4.4),
        _row("AP75", 5.0, 1.1, 9.0),
    ]
    by_class = [_row(metric, 0.4, -2.0, 2.9, class_name=name) for name in CLASSES for metric in ("AP", "AP50")]
    by_size = [
        Row("AP", ALL_CLASSES, "small", 0, None, None, None, None, None, None),
        _row("AP", -3.0, -5.0, -1.0, area="medium"),
        _row("AP", 6.2, 2.0, 10.1, area="large"),
    ]
    recalls = np.linspace(0, 1, 101)
    curves = [
        Curve(arm, name, iou, tuple((1 - recalls ** (3 if arm == "a" else 2)) * (1.3 - iou * 0.6)))
        for arm in ARM_NAMES
        for name in (ALL_CLASSES, *CLASSES)
        for iou in (0.5, 0.75)
    ]
    return Kind((*all_rows, *by_class, *by_size), tuple(curves))


def _row(metric, difference, low, high, class_name=ALL_CLASSES, area="all") -> Row:
    return Row(metric, class_name, area, 68, 50.0 + difference, 50.0, difference, low, high, 0.9975)


def _bin(low: float, shift: float) -> Bin:
    return Bin(low, low + 0.1, int(5 + 60 * low), low + 0.05, min(1.0, max(0.0, low + 0.05 - shift)))


def _photos() -> tuple[Photo, ...]:
    return tuple(
        Photo(number, f"photo {number}.jpg", 2, 0.9 - number / 100, 0.5 + number / 100) for number in range(48)
    )


def _cost(p50_ms: float) -> ArmCost:
    latency = tuple(p50_ms * (0.9 + index / 100) for index in range(21))
    return ArmCost(
        12_400_000, 34_500_000_000, (480, 640), 50_000_000, 51_000_000, 700_000_000, latency, p50_ms, p50_ms * 1.09
    )


def _served(*, equal: bool) -> Served:
    arms = tuple(
        ServedArm(
            arm=arm,
            model=f"model_{arm}",
            version="1.0",
            archive_digest="abc" * 20,
            same_weights=equal,
            mask_ap=51.28 if equal else 12.0,
            mask_ap_offline=51.3,
            box_ap=52.0,
            box_ap_offline=52.0,
            round_trip_p50_ms=111.0,
            round_trip_p95_ms=140.0,
        )
        for arm in ARM_NAMES
    )
    return Served("localhost:7070", arms, 0.1, equal)
