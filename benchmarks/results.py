"""What is claimed, and what was measured: claims ─▶ rows, one value a round ─▶ results.json.

A row's interval is its smallest and largest round. Of 7 rounds that covers the true median with 98 % probability,
whatever the distribution: all rounds lie on one side of it with probability 2 · 2⁻⁷.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

Unit = Literal["×", "%", "ms", "s", "img/s"]


@dataclass(frozen=True)
class Claim:
    """One line of the target table."""

    name: str
    """Dotted: `model.r50.800.fp32`; `--only model.r50` takes all that begin so."""
    what: str
    against: str
    target: float | None = None
    """None: reported, not aimed at."""
    unit: Unit = "×"
    at_least: bool = True
    """False: the target is an upper limit."""


@dataclass(frozen=True)
class Row:
    """A claim and what this machine says to it."""

    claim: Claim
    values: tuple[float, ...] = ()
    """One a round, in the claim's unit."""
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """What the values were made of, by whose it is: one number a round."""
    sample_unit: str = "ms"
    note: str = ""
    problem: str = ""
    """"not measured: why" or "failed: why"; then there are no values."""

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the target; None without a target or without a measurement."""
        if self.claim.target is None or not self.values:
            return None
        return self.median >= self.claim.target if self.claim.at_least else self.median <= self.claim.target

    @property
    def failed(self) -> bool:
        return self.problem.startswith("failed")

    @property
    def sample_medians(self) -> dict[str, float]:
        return {label: median(values) for label, values in self.samples.items() if values}


@dataclass(frozen=True)
class Results:
    """One run."""

    machine: str
    started: str
    commit: str
    mode: str
    """"bench" or "bench-full"."""
    rounds: int
    wall_s: float
    versions: Mapping[str, str]
    peaks: Mapping[str, float | str]
    """Measured GFLOP/s on all cores by precision, the median of the rounds, or why there is none."""
    rows: tuple[Row, ...]
    series: Mapping[str, Any]
    """What the plots show beside the rows, see benchmarks.plots."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def not_measured(claim: Claim, why: str) -> Row:
    return Row(claim, problem=f"not measured: {why}")


def failed(claim: Claim, error: BaseException | str) -> Row:
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return Row(claim, problem=f"failed: {' '.join(text.split())[:300]}")


def ratio_row(
    claim: Claim, peer: Sequence[float], ours: Sequence[float], labels: tuple[str, str], note: str = ""
) -> Row:
    """How many times faster ours is, round by round; both are times of the same work."""
    values = tuple(theirs / own for theirs, own in zip(peer, ours, strict=True))
    return Row(claim, values, {labels[0]: tuple(peer), labels[1]: tuple(ours)}, note=note)


def read_results(path: Path) -> Results:
    """The file that `Results.to_json` made."""
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rows = tuple(
        Row(
            **{
                **row,
                "claim": Claim(**row["claim"]),
                "values": tuple(row["values"]),
                "samples": {label: tuple(values) for label, values in row["samples"].items()},
            }
        )
        for row in data["rows"]
    )
    return Results(**{**data, "rows": rows})
