"""A training step of the preset `quick` from random weights, on drawn pandas: see benchmarks.training_step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks import models
from benchmarks.bench import Bench
from benchmarks.results import Claim, Row
from benchmarks.rows import Group
from benchmarks.training_step import THEIRS, Workload, compare


def groups() -> list[Group]:
    return [
        Group(
            f"training, {title}",
            [Claim(f"training.{name}", f"training step, quick preset, {title}", THEIRS, 1.5)],
            _measure,
        )
        for name, title in models.TITLES.items()
    ]


def _measure(bench: Bench, claims: Sequence[Claim]) -> Iterator[Row]:
    for claim in claims:
        backbone = models.BACKBONES[claim.name.split(".")[1]]
        yield compare(bench, claim, Workload(backbone, str(bench.dataset)))
