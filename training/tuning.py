"""Workers, threads and batch size of a run, measured on this machine.

    cores ─▶ layouts: 1 worker with all of them, 2 with half of them each, …, one a core
      round 1: 1 × 4, 2 × 2, 4 × 1   round 2: 2 × 2, 4 × 1, 1 × 4   …   ─▶ images/s and latency of each ─▶ the best
      the same in turns for its batch sizes                             ─▶ images/s of each            ─▶ the best

Each layout is measured with all its workers busy (images/s) and with one busy (what a lone request waits), in real
processes (`MeasuredWorker`), in short windows and in turns: whatever else the machine does then, it does to all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from maskserve.modeling.device import pick_device
from maskserve.modeling.machine import describe_machine, usable_cores, usable_memory_bytes
from maskserve.training.layouts import Layout, Measured, Objective, batches, choose, layouts
from maskserve.training.measured_worker import Answered, MeasuredWorker, Memory
from maskserve.training.variant import AS_TRAINED, Variant

ROUNDS = 5
SHORTEST_WINDOW_S = 0.5
MEMORY_SHARE = 0.8
"""Of what is free that workers may take."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """All that was measured, and what was chosen."""

    objective: Objective
    chosen: Measured
    rows: tuple[Measured, ...]
    machine: str
    cores: int
    """That the layouts were made for."""
    photos: int
    worker_memory_bytes: int
    """Peak of one worker."""

    def to_json(self) -> dict[str, Any]:
        """For the model card and `--json`."""
        rows = [_row_json(row) | {"chosen": row == self.chosen} for row in self.rows]
        facts = ("objective", "machine", "cores", "photos", "worker_memory_bytes")
        return {name: getattr(self, name) for name in facts} | {"rows": rows}


def tune(
    run: Path,
    photos: Sequence[Path],
    *,
    objective: Objective = "balanced",
    batch_delay_ms: float = 10,
    variant: Variant = AS_TRAINED,
    cores: int | None = None,
    seconds: float = 60,
    on_window: Callable[[int, int], None] = lambda _done, _total: None,
) -> Tuning:
    """Measures the layouts of `run` on `photos`.

    Args:
        run: a run folder.
        photos: files, answered again and again by each worker.
        objective: see `choose`.
        batch_delay_ms: what a lone request waits where batches are more than 1.
        variant: how the run is run.
        cores: that the model may use; None: all that this process may.
        seconds: of measuring, loading not counted; a window takes one photo at least, so slow models take longer.
        on_window: called with (windows measured, windows in all).

    Raises:
        ConfigError: the run or a photo cannot be loaded in a process of its own.
    """
    cores, device = cores or usable_cores(), pick_device("auto")
    with _Workers(run, photos, variant) as workers:
        taken = workers.start_first(cores)
        worker_bytes = taken.peak_memory_bytes
        fitting = 1 + int(MEMORY_SHARE * usable_memory_bytes()) // worker_bytes
        if taken.gpu_share:
            fitting = min(fitting, int(MEMORY_SHARE / taken.gpu_share))
        first = layouts(cores, fitting, device)
        workers.start(max(layout.workers for layout in first) - 1)
        windows = sum(_windows(layout) for layout in first) + len(batches(first[0], device))
        clock = _Clock(max(SHORTEST_WINDOW_S, seconds / windows / ROUNDS), windows * ROUNDS, on_window)
        rows = _measure(first, workers, clock)
        best = choose(rows, objective)
        rows += _measure_batches(best, device, batch_delay_ms, workers, clock)
    return Tuning(objective, choose(rows, objective), tuple(rows), describe_machine(), cores, len(photos), worker_bytes)


@dataclass
class _Clock:
    """How long a window is, and how many there have been."""

    window_s: float
    total: int
    on_window: Callable[[int, int], None]
    done: int = 0

    def tick(self) -> None:
        self.done += 1
        self.on_window(self.done, self.total)


class _Workers:
    """Processes that take the shape of any layout; none is left after the block."""

    def __init__(self, run: Path, photos: Sequence[Path], variant: Variant) -> None:
        self._make = lambda: MeasuredWorker(run, photos, variant)
        self._stack = ExitStack()
        self._workers: list[MeasuredWorker] = []
        self._threads: dict[MeasuredWorker, int] = {}

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_first(self, threads: int) -> Memory:
        """Starts a worker; what it takes, after all photos."""
        self.start(1)
        return self._set_up(self._workers, threads)[0]

    def start(self, count: int) -> None:
        """More workers."""
        for _ in range(count):
            self._workers.append(self._stack.enter_context(self._make()))

    def answer(self, layout: Layout, count: int, clock: _Clock) -> list[Answered]:
        """So many of the layout's workers, at the same time."""
        chosen = self._workers[:count]
        self._set_up([one for one in chosen if self._threads.get(one) != layout.threads], layout.threads)
        for one in chosen:
            one.begin_answering(layout.batch_size, clock.window_s)
        answered = [one.finish_answering() for one in chosen]
        clock.tick()
        return answered

    def _set_up(self, workers: Sequence[MeasuredWorker], threads: int) -> list[Memory]:
        for one in workers:
            one.begin_setup(threads)
            self._threads[one] = threads
        return [one.finish_setup() for one in workers]


def _windows(layout: Layout) -> int:
    """A round's: all workers busy, and one alone, which is the same for a single worker."""
    return 1 if layout.workers == 1 else 2


def _measure(candidates: Sequence[Layout], workers: _Workers, clock: _Clock) -> list[Measured]:
    together: dict[Layout, list[list[Answered]]] = {layout: [] for layout in candidates}
    alone: dict[Layout, list[Answered]] = {layout: [] for layout in candidates}
    for layout in _in_turns(candidates):
        together[layout].append(workers.answer(layout, layout.workers, clock))
        alone[layout] += together[layout][-1] if layout.workers == 1 else workers.answer(layout, 1, clock)
    return [_measured(layout, together[layout], _latencies(alone[layout])) for layout in candidates]


def _measure_batches(
    best: Measured, device: str, batch_delay_ms: float, workers: _Workers, clock: _Clock
) -> list[Measured]:
    """Rows of the best layout's larger batches; their images/s relative to those of batch 1, measured in turns.

    Batches that no memory was there for are left out.
    """
    candidates = batches(best.layout, device)
    together: dict[Layout, list[list[Answered]]] = {layout: [] for layout in candidates}
    for layout in _in_turns(candidates):
        together[layout].append(workers.answer(layout, layout.workers, clock))
    rows = [_measured(layout, together[layout], np.array([best.latency_ms])) for layout in candidates]
    scale = best.images_per_s / rows[0].images_per_s
    return [
        replace(
            row,
            images_per_s=row.images_per_s * scale,
            latency_ms=best.latency_ms + batch_delay_ms,
            latency_p95_ms=best.latency_p95_ms + batch_delay_ms,
        )
        for row in rows[1:]
        if row.images_per_s > 0
    ]


def _in_turns(candidates: Sequence[Layout]) -> Iterable[Layout]:
    """All of them in each round, each round beginning with another."""
    for number in range(ROUNDS):
        shift = number % len(candidates)
        yield from (*candidates[shift:], *candidates[:shift])


def _measured(layout: Layout, rounds: Sequence[Sequence[Answered]], latencies_ms: np.ndarray) -> Measured:
    per_round = [sum(one.photos / one.elapsed_s for one in answered) for answered in rounds]
    busy = _latencies([one for answered in rounds for one in answered])
    p50, p95 = np.percentile(latencies_ms, (50, 95))
    return Measured(layout, float(np.median(per_round)), float(np.median(busy)), float(p50), float(p95))


def _latencies(answered: Sequence[Answered]) -> np.ndarray:
    return np.concatenate([one.latencies_ms for one in answered])


def _row_json(row: Measured) -> dict[str, Any]:
    figures = {name: round(value, 2) for name, value in asdict(row).items() if name != "layout"}
    return asdict(row.layout) | figures
