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
    for claim in claims:
        if why := why_no_gpu():
            yield not_measured(claim, why)
            continue
        _, backbone, batch = claim.name.split(".")
        common: dict[str, Any] = {
            "run": bench.run(backbone, SIZE),
            "photo": bench.photo,
            "device": "cuda",
            "batch": int(batch),
        }
        wanted = {
            PEER: Subject("benchmarks.peers.predictor:segment", **common),
            OURS: Subject("benchmarks.ours.predictor:segment", precision="bf16", **common),
        }
        with bench.subjects(wanted, title=claim.what) as steps:
            turns = bench.turns(steps, title=claim.what, warm_ups=3)
        peer, ours = ([turn.ms for turn in turns[name]] for name in wanted)
        yield ratio_row(claim, peer, ours, (PEER, OURS), note=f"ms for {batch} photos")
