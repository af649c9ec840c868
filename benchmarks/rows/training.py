"""A training step of the preset `quick`: Detectron2's trainer as is, and ours; same config, same photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import models
from benchmarks.bench import Bench
from benchmarks.results import Claim, Row, ratio_row
from benchmarks.rows import Group
from benchmarks.subject import Subject

PEER, OURS = "Detectron2's SimpleTrainer and DatasetMapper", "maskserve train"


def groups() -> list[Group]:
    return [
        Group(
            f"training, {title}",
            [Claim(f"training.{name}", f"training step, quick preset, {title}", PEER, 1.5)],
            _measure,
        )
        for name, title in models.TITLES.items()
    ]


def _measure(bench: Bench, claims: Sequence[Claim]) -> Iterator[Row]:
    for claim in claims:
        arguments: dict[str, Any] = {"dataset": bench.dataset, "backbone": claim.name.split(".")[1]}
        wanted = {
            PEER: Subject("benchmarks.peers.trainer:steps", **arguments),
            OURS: Subject("benchmarks.ours.trainer:steps", **arguments),
        }
        with bench.subjects(wanted, title=claim.what) as steps:
            turns = bench.turns(steps, title=claim.what, warm_ups=2)
        peer, ours = ([turn.ms for turn in turns[name]] for name in wanted)
        yield ratio_row(claim, peer, ours, (PEER, OURS))
