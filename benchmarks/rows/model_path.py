"""The model's way without decoding: resize, network, masks in the photo's frame; one photo at a time.

Each side is one process of its own, which takes the photo at every size in a turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks import models
from benchmarks.bench import Bench
from benchmarks.floor import floor_ms, peak, peaks
from benchmarks.machine import PRECISIONS, best_precision, why_not
from benchmarks.ours.predictor import variant
from benchmarks.results import Claim, Row, not_measured, ratio_row
from benchmarks.rows import Group
from benchmarks.subject import TUNED_MALLOC, Subject

SIZES = (800, 480, 320)
TARGETS = {
    "r50": {"fp32": 1.5, "bf16": 3.3, "int8": 6.0},
    "mnv2": {"fp32": 1.5, "bf16": 3.3, "int8": 5.5},
}
TUNED_TARGETS = {"fp32": None, "bf16": 2.7, "int8": None}
FLOOR_TARGETS = {"r50": 75.0, "mnv2": 65.0}
STOCK, TUNED, PEAK = "DefaultPredictor", "DefaultPredictor, tuned malloc", "large products"


def groups() -> list[Group]:
    return [
        Group(models.TITLES[name], [claim for size in SIZES for claim in _claims(name, size)], partial(_measure, name))
        for name in models.BACKBONES
    ]


def _claims(backbone: str, size: int) -> list[Claim]:
    title, claims = f"{models.TITLES[backbone]} {size} px", []
    for precision in PRECISIONS:
        name = f"model.{backbone}.{size}.{precision}"
        exact = {"fp32": "exact fp32", "int8": "int8 trunk, 300 proposals"}.get(precision, precision)
        claims.append(Claim(name, f"{title}, {exact}", STOCK, TARGETS[backbone][precision]))
        if size == SIZES[0]:
            claims.append(Claim(f"{name}.tuned", f"{title}, {exact}", TUNED, TUNED_TARGETS[precision]))
        target = FLOOR_TARGETS[backbone] if size == SIZES[0] else None
        claims.append(Claim(f"{name}.floor", f"{title}, {exact}", "share of the FLOP floor", target, "%"))
    return claims


def _measure(backbone: str, bench: Bench, claims: Sequence[Claim]) -> Iterator[Row]:
    possible = []
    for claim in claims:
        if why := why_not(_precision(claim)):
            yield not_measured(claim, why)
        else:
            possible.append(claim)
    if not possible:
        return
    runs = {size: bench.run(backbone, int(size)) for size in dict.fromkeys(map(_size, possible))}
    title = models.TITLES[backbone]
    with bench.subjects(_subjects(bench, backbone, runs, possible), title=title) as steps:
        turns = bench.turns(steps, title=title)
    bursts = [turn.told for turn in turns.pop(PEAK)]
    bench.bursts += bursts
    for size, run in runs.items():
        told = {name: [turn.told[size] for turn in taken] for name, taken in turns.items() if size in taken[0].told}
        _check(told)
        times_ms = {name: [one["ms"] for one in ones] for name, ones in told.items()}
        yield from (_row(run, claim, times_ms, bursts) for claim in possible if _size(claim) == size)


def _subjects(bench: Bench, backbone: str, runs: Mapping[str, Path], claims: Sequence[Claim]) -> dict[str, Subject]:
    """By name; each has the sizes that a claim needs. One says what the machine can do in the same rounds."""

    def arguments(own: Sequence[Claim]) -> dict[str, Any]:
        sizes = dict.fromkeys(map(_size, own))
        return {"cases": {size: (str(runs[size]), 1) for size in sizes}, "photo": bench.photo}

    peer, ours = "benchmarks.peers.predictor:segment_each", "benchmarks.ours.predictor:segment_each"
    found: dict[str, Subject] = {}
    for name, environment in ((STOCK, {}), (TUNED, TUNED_MALLOC)):
        if own := [claim for claim in claims if claim.against == name]:
            found[name] = Subject(peer, environment=environment, **arguments(own))
    for precision in dict.fromkeys(map(_precision, claims)):
        trunk = bench.int8_trunk(backbone) if precision == "int8" else ""
        own = [claim for claim in claims if _precision(claim) == precision]
        found[_ours(precision)] = Subject(ours, precision=precision, trunk=trunk, **arguments(own))
    return found | {PEAK: Subject("benchmarks.floor:bursts")}


def _check(told: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """All did the same work."""
    counts = {name: {one["instances"] for one in ones} for name, ones in told.items()}
    if len(set().union(*counts.values())) != 1:
        raise RuntimeError(f"not all found the same number of instances: {counts}")


def _row(
    run: Path, claim: Claim, times_ms: Mapping[str, Sequence[float]], bursts: Sequence[Mapping[str, float]]
) -> Row:
    ours = _ours(_precision(claim))
    own = times_ms[ours]
    if claim.unit == "×":
        return ratio_row(claim, times_ms[claim.against], own, (claim.against, ours))
    precision = _precision(claim)
    if isinstance(why := peaks(bursts)[precision], str):
        return not_measured(claim, why)
    work = flops(run, int(_size(claim)), variant(precision).proposals)
    calculates_in = {part: _calculates_in(part, claim) for part in work}
    least_ms = [sum(floor_ms(work[part], peak(burst, its)) for part, its in calculates_in.items()) for burst in bursts]
    shares = tuple(100 * least / ms for least, ms in zip(least_ms, own, strict=True))
    return Row(claim, shares, {ours: tuple(own), "floor": tuple(least_ms)})


def _calculates_in(part: str, claim: Claim) -> str:
    """The precision of one part of `complexity`: of int8's parts some stay in float (`training/quantize.py`)."""
    from maskserve.modeling.device import multiplies_int8

    in_int8 = (
        part in ("fpn", "rpn")
        or (part == "backbone" and _backbone(claim) == "r50")
        or (part == "box_head" and multiplies_int8())
    )
    return _precision(claim) if _precision(claim) != "int8" or in_int8 else best_precision()


@cache
def flops(run: Path, size: int, proposals: int | None) -> dict[str, int]:
    """Of the photo of this benchmark at a network size, by part; proposals None: as many as the run's config says."""
    from detectron2.modeling import build_model

    from maskserve.modeling.complexity import measure_complexity
    from maskserve.modeling.config import load_cfg
    from maskserve.modeling.pixels import network_size
    from maskserve.training.variant import Variant

    cfg = Variant(proposals=proposals).cfg(load_cfg(run / "config.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    seen = network_size(models.PHOTO_SIZE, size, cfg.INPUT.MAX_SIZE_TEST)
    parts = measure_complexity(build_model(cfg), seen).by_part
    return {name: part.flops for name, part in parts.items()}


def _backbone(claim: Claim) -> str:
    return claim.name.split(".")[1]


def _size(claim: Claim) -> str:
    return claim.name.split(".")[2]


def _precision(claim: Claim) -> str:
    return claim.name.split(".")[3]


def _ours(precision: str) -> str:
    return f"maskserve {precision}"
