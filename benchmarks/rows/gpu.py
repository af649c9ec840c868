"""Images a second on a GPU, where there is one: DefaultPredictor one by one, ours in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import models
from benchmarks.bench import Bench
from benchmarks.machine import why_no_gpu
from benchmarks.results import Claim, Row, not_measured, ratio_row
from benchmarks.rows import Group
from benchmarks.subject import Subject

SIZE = 800
BATCHES = (1, 4, 16)
PEER, OURS = "DefaultPredictor on the same GPU", "maskserve bf16"


def groups() -> list[Group]:
    claims = [
        Claim(f"gpu.{name}.{batch}", f"GPU, {title} {SIZE} px, bf16, batch {batch}: images/s", PEER, 4.0)
        for name, title in models.TITLES.items()
        for batch in BATCHES
    ]
    return [Group("GPU", claims, _measure)]


def _measure(bench: Bench, claims: Sequence[Claim]) -> Iterator[Row]:
    if why := why_no_gpu():
        yield from (not_measured(claim, why) for claim in claims)
        return
    for backbone in models.TITLES:
        if own := [claim for claim in claims if claim.name.split(".")[1] == backbone]:
            yield from _of_backbone(bench, backbone, own)


def _of_backbone(bench: Bench, backbone: str, claims: Sequence[Claim]) -> Iterator[Row]:
    batches = [claim.name.rpartition(".")[2] for claim in claims]
    run = str(bench.run(backbone, SIZE))
    common: dict[str, Any] = {
        "cases": {batch: (run, int(batch)) for batch in batches},
        "photo": bench.photo,
        "device": "cuda",
    }
    wanted = {
        PEER: Subject("benchmarks.peers.predictor:segment_each", **common),
        OURS: Subject("benchmarks.ours.predictor:segment_each", precision="bf16", **common),
    }
    title = f"GPU, {models.TITLES[backbone]}"
    with bench.subjects(wanted, title=title) as steps:
        turns = bench.turns(steps, title=title, warm_ups=2)
    for claim, batch in zip(claims, batches, strict=True):
        peer, ours = ([turn.told[batch]["ms"] for turn in turns[name]] for name in wanted)
        yield ratio_row(claim, peer, ours, (PEER, OURS), note=f"ms for {batch} photos")
