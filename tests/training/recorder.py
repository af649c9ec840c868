"""What tests of real trainings share: keys that make a step take a moment, and a Progress that remembers."""

from __future__ import annotations

TINY = (
    "INPUT.MIN_SIZE_TRAIN",
    "(64,)",
    "INPUT.MIN_SIZE_TEST",
    "64",
    "SOLVER.IMS_PER_BATCH",
    "2",
    "MODEL.DEVICE",
    "cpu",
)


class Recorder:
    """A Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.notes: list[str] = []

    def step(self, done: int, total: int, losses: dict[str, float]) -> None:
        self.steps.append(done)

    def note(self, text: str) -> None:
        self.notes.append(text)
