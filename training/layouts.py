"""Which ways to run a model there are on a machine, and which of those that were measured is the best. Pure.

cores, memory, device ─▶ layouts, batches ─▶ (maskserve.training.tuning measures) ─▶ choose
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Objective = Literal["balanced", "latency", "throughput"]
OBJECTIVES: tuple[Objective, ...] = ("balanced", "latency", "throughput")

MOST_LAYOUTS = 8
GPU_THREADS = 4
"""The network runs elsewhere."""
GPU_WORKERS = (1, 2, 4)
"""On one GPU: while one answers, the network of another runs."""
CPU_BATCHES, GPU_BATCHES = (2, 4), (2, 4, 8, 16)
NOISE = 1.05
"""Two layouts that differ by less are the same; then the other figure decides."""
BALANCED_LATENCY = 1.5
"""Times the shortest latency that "balanced" accepts for more images a second."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a model is run."""

    workers: int
    threads: int
    """Of each worker."""
    batch_size: int = 1


@dataclass(frozen=True, slots=True)
class Measured:
    """What a layout did."""

    layout: Layout
    images_per_s: float
    """With all workers busy: median of the rounds."""
    busy_ms: float
    """Median time of a batch then."""
    latency_ms: float
    """Median time of a request that comes alone; the wait for a batch to fill is in it."""
    latency_p95_ms: float


def layouts(cores: int, most_workers: int, device: str) -> tuple[Layout, ...]:
    """Those worth measuring, fewest workers first; workers × threads never exceed the cores.

    1, 2, 4, … workers that share the cores equally, and one worker a core; of those with as many threads only the one
    with the most workers. On a GPU 1, 2 and 4 workers.

    Args:
        cores: at least 1.
        most_workers: that fit into memory.
        device: "cpu", "cuda", "cuda:1".
    """
    most_workers = max(1, min(most_workers, cores))
    if device.startswith("cuda"):
        counts = (workers for workers in GPU_WORKERS if workers <= most_workers)
        return tuple(Layout(workers, min(cores // workers, GPU_THREADS)) for workers in counts)
    powers = {2**power for power in range(most_workers.bit_length()) if 2**power <= most_workers}
    widest = {cores // workers: workers for workers in sorted(powers | {most_workers})}
    return tuple(Layout(workers, threads) for threads, workers in widest.items())[:MOST_LAYOUTS]


def batches(layout: Layout, device: str) -> tuple[Layout, ...]:
    """The same with the batch sizes worth measuring, 1 first."""
    sizes = GPU_BATCHES if device.startswith("cuda") else CPU_BATCHES
    return (layout, *(replace(layout, batch_size=size) for size in sizes))


def choose(rows: Sequence[Measured], objective: Objective) -> Measured:
    """The best of `rows`.

    latency      the shortest latency; of those within `NOISE` of it, the most images/s
    throughput   the most images/s; of those within `NOISE` of them, the shortest latency
    balanced     as throughput, among those with at most `BALANCED_LATENCY` times the shortest latency
    """
    shortest = min(row.latency_ms for row in rows)
    if objective == "latency":
        return max((row for row in rows if row.latency_ms <= shortest * NOISE), key=lambda row: row.images_per_s)
    if objective == "balanced":
        rows = [row for row in rows if row.latency_ms <= shortest * BALANCED_LATENCY]
    most = max(row.images_per_s for row in rows)
    return min((row for row in rows if row.images_per_s * NOISE >= most), key=lambda row: row.latency_ms)
