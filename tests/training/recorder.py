"""A Progress that remembers what it was told."""

from __future__ import annotations


class Recorder:
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.notes: list[str] = []

    def step(self, done: int, total: int, losses: dict[str, float]) -> None:
        self.steps.append(done)

    def note(self, text: str) -> None:
        self.notes.append(text)
