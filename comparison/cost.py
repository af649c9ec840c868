"""What each arm costs on this machine: latency of both taken alternately, sizes, memory.

    photo 1: a, b   photo 2: b, a   photo 3: a, b   …   ─▶ p50, p95 of each, and the median of the ratios of the pairs

A pair is measured within a second or so, first one arm, then the other, in turns: whatever else the machine does then,
it does to both. A latency is what a worker spends on a decoded photo: resizing, the network, masks pasted and encoded.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.modeling import build_model

from maskserve.comparison.arms import Arm
from maskserve.comparison.memory import peak_memory
from maskserve.comparison.results import ArmCost, ArmName, Cost
from maskserve.modeling.answer import to_segmentation
from maskserve.modeling.complexity import measure_complexity
from maskserve.modeling.predictor import Predictor, network_size
from maskserve.protos.types import ModelInfo, SegmentOptions
from maskserve.training.loader import Record, read_photo
from maskserve.training.package import Package

WARM_UPS = 3
"""Pairs before the clock counts."""
MEMORY_PHOTOS = 5
_MODEL = ModelInfo("", "", "")


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
    latencies = alternate(arms[0].predictor, arms[1].predictor, chosen, on_pair)
    ratios = latencies[0] / latencies[1]
    low, high = median_interval(ratios, seed=seed, resamples=resamples)
    a, b = (_arm_cost(arm, packages[arm.name], records, spent) for arm, spent in zip(arms, latencies, strict=True))
    return Cost(a, b, float(np.median(ratios)), low, high, machine())


def alternate(
    a: Predictor, b: Predictor, records: Sequence[Record], on_pair: Callable[[], None] = lambda: None
) -> tuple[np.ndarray, np.ndarray]:
    """ms of both on each photo, float64 (photos,); who goes first alternates."""
    spent = np.zeros((2, len(records)))
    for index in range(-WARM_UPS, len(records)):
        photo = read_photo(records[max(0, index)])
        order = (0, 1) if index % 2 == 0 else (1, 0)
        for place in order:
            took_ms = _timed_ms((a, b)[place], photo)
            if index >= 0:
                spent[place, index] = took_ms
        if index >= 0:
            on_pair()
    return spent[0], spent[1]


def median_interval(values: np.ndarray, *, seed: int, resamples: int) -> tuple[float, float]:
    """95 % percentile interval of the median, over resampled values (Efron, 1979)."""
    picked = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.percentile(np.median(values[picked], axis=1), (2.5, 97.5))
    return float(low), float(high)


def machine() -> str:
    """Processor, cores, device, torch and its threads."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores, {device}; torch {torch.__version__} with {torch.get_num_threads()} threads"


def _timed_ms(predictor: Predictor, photo: np.ndarray) -> float:
    start = time.perf_counter()
    (prediction,), _ = predictor([photo])
    to_segmentation(prediction, SegmentOptions(), predictor.class_names, _MODEL)
    return (time.perf_counter() - start) * 1000


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
        memory_bytes=peak_memory(arm.folder.path, [Path(record["file_name"]) for record in some]),
        latency_ms=tuple(round(float(value), 3) for value in latency_ms),
        p50_ms=float(p50),
        p95_ms=float(p95),
    )


def _median_size(predictor: Predictor, records: Sequence[Record]) -> tuple[int, int]:
    """(height, width) at which the network sees the photo in the middle of those sorted by area."""
    by_area = sorted((record["height"] * record["width"], record["height"], record["width"]) for record in records)
    _, height, width = by_area[len(by_area) // 2]
    return network_size((height, width), predictor.cfg.INPUT.MIN_SIZE_TEST, predictor.cfg.INPUT.MAX_SIZE_TEST)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
