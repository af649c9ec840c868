"""What each arm costs on this machine: latency of both in turns (`maskserve.training.latency`), sizes, memory.

ms of each arm on each photo ─▶ p50, p95 of each, and the median of the ratios of the pairs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from detectron2.modeling import build_model

from maskserve.comparison.arms import Arm
from maskserve.comparison.results import ArmCost, ArmName, Cost
from maskserve.modeling.complexity import measure_complexity
from maskserve.modeling.predictor import Predictor
from maskserve.training.latency import alternate, machine
from maskserve.training.loader import Record
from maskserve.training.measured_worker import peak_memory
from maskserve.training.package import Package

MEMORY_PHOTOS = 5


def measure_cost(
    arms: tuple[Arm, Arm],
    packages: Mapping[ArmName, Package],
    records: Sequence[Record],
    *,
    pairs: int,
    seed: int,
    resamples: int,
    on_pair: Callable[[], None] = lambda: None,
) -> Cost:
    """Both arms on the photos of `records`.

    Args:
        packages: the archives that `maskserve package` makes of the arms.
        records: of `dataset_dicts`.
        pairs: how many photos each arm answers against the clock; spread evenly over `records`, some several times
            where there are fewer.
        seed, resamples: of the bootstrap over pairs.

    Raises:
        DataError: a photo is missing or unreadable.
        ConfigError: an arm cannot be loaded in a process of its own.
    """
    chosen = [records[index * len(records) // pairs] for index in range(pairs)]
    latencies = alternate([arm.predictor for arm in arms], chosen, on_pair)
    ratios = latencies[0] / latencies[1]
    low, high = median_interval(ratios, seed=seed, resamples=resamples)
    a, b = (_arm_cost(arm, packages[arm.name], records, spent) for arm, spent in zip(arms, latencies, strict=True))
    return Cost(a, b, float(np.median(ratios)), low, high, machine())


def median_interval(values: np.ndarray, *, seed: int, resamples: int) -> tuple[float, float]:
    """95 % percentile interval of the median, over resampled values (Efron, 1979)."""
    picked = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.percentile(np.median(values[picked], axis=1), (2.5, 97.5))
    return float(low), float(high)


def _arm_cost(arm: Arm, package: Package, records: Sequence[Record], latency_ms: np.ndarray) -> ArmCost:
    complexity = measure_complexity(build_model(arm.predictor.cfg), _median_size(arm.predictor, records))
    some = [records[index * len(records) // MEMORY_PHOTOS] for index in range(MEMORY_PHOTOS)]
    p50, p95 = np.percentile(latency_ms, (50, 95))
    return ArmCost(
        parameters=complexity.parameters,
        flops=complexity.flops,
        input_size=complexity.input_size,
        weights_bytes=arm.folder.weights.stat().st_size,
        archive_bytes=package.size_bytes,
        memory_bytes=peak_memory(arm.folder.path, [Path(record["file_name"]) for record in some], arm.variant),
        latency_ms=tuple(round(float(value), 3) for value in latency_ms),
        p50_ms=float(p50),
        p95_ms=float(p95),
    )


def _median_size(predictor: Predictor, records: Sequence[Record]) -> tuple[int, int]:
    """(height, width) at which the network sees the photo in the middle of those sorted by area."""
    by_area = sorted((record["height"] * record["width"], record["height"], record["width"]) for record in records)
    _, height, width = by_area[len(by_area) // 2]
    return predictor.network_size((height, width))
