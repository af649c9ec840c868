"""What a photo costs on this machine, of several predictors in turns.

    photo 1: a, b, c   photo 2: c, b, a   photo 3: a, b, c   …   ─▶ ms of each on each photo

One photo goes through all within a second or so: whatever else the machine does then, it does to all, so ratios of the
same photo hold where milliseconds do not. A latency is what a worker spends on a decoded photo: resizing, the network,
masks pasted and encoded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from maskserve.modeling.answer import to_segmentation
from maskserve.modeling.machine import describe_machine
from maskserve.modeling.predictor import Predictor
from maskserve.protos.types import ModelInfo, SegmentOptions
from maskserve.training.loader import Record, read_as_served

WARM_UPS = 3
"""Rounds before the clock counts."""
_MODEL = ModelInfo("", "", "")


def alternate(
    predictors: Sequence[Predictor], records: Sequence[Record], on_round: Callable[[], None] = lambda: None
) -> np.ndarray:
    """ms of each on each photo, float64 (predictors, photos); every other round goes backwards.

    Raises DataError for a photo that is missing or unreadable.
    """
    spent_ms = np.zeros((len(predictors), len(records)))
    for index in range(-WARM_UPS, len(records)):
        record = records[max(0, index)]
        for place in range(len(predictors))[:: 1 if index % 2 == 0 else -1]:
            took_ms = _timed_ms(predictors[place], record)
            if index >= 0:
                spent_ms[place, index] = took_ms
        if index >= 0:
            on_round()
    return spent_ms


def machine() -> str:
    """What milliseconds that were measured in this process hold for."""
    return f"{describe_machine()} with {torch.get_num_threads()} threads"


def _timed_ms(predictor: Predictor, record: Record) -> float:
    photo, size = read_as_served(record, predictor.network_size)
    start = time.perf_counter()
    (prediction,), _ = predictor([photo], [size])
    to_segmentation(prediction, SegmentOptions(), predictor.class_names, _MODEL)
    return (time.perf_counter() - start) * 1000
