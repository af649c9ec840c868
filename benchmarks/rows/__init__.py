"""Groups of rows: a group says what it claims and measures it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.results import Claim, Row


@dataclass(frozen=True)
class Group:
    """Rows that are measured together."""

    title: str
    claims: Sequence[Claim]
    measure: Callable[[Bench, Sequence[Claim]], Iterator[Row]]
    """Given the claims that are wanted; yields a row for each as soon as it has one. What it leaves out has failed."""
