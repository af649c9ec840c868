"""Metrics through TorchServe, and log lines that nobody outside can forge.

TorchServe parses what a worker prints: a line that begins with [METRICS] or [PID] is taken for the worker's own. So a
log line here is one JSON object, ASCII, cut in length; text from a request can neither begin a line nor break one.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from maskserve.protos.errors import RequestError

if TYPE_CHECKING:
    from maskserve.handlers.batch import Answer

_LOG = logging.getLogger("maskserve.handlers")
_LONGEST = 4000


def log_event(event: str, **fields: object) -> None:
    """One line in the worker's log."""
    _LOG.info("%s", json.dumps({"event": event} | {name: str(value)[-_LONGEST:] for name, value in fields.items()}))


def log_failure(error: BaseException) -> None:
    """An error that is ours, with its traceback, as one line."""
    log_event("failure", traceback="".join(traceback.format_exception(error)))


def record(answers: Sequence[Answer], metrics: Any) -> None:
    """The batch's counts and times to TorchServe (`context.metrics`; None: nowhere). Names: handlers/metrics.yaml."""
    if metrics is None or not answers:
        return
    _count(metrics, "maskserve_images_total", len(answers))
    outcomes = [answer.outcome for answer in answers]
    for error in (outcome for outcome in outcomes if isinstance(outcome, RequestError)):
        _count(metrics, "maskserve_errors_total", 1, code=str(error.code))
    found = sum(len(outcome.instances) for outcome in outcomes if not isinstance(outcome, RequestError))
    _count(metrics, "maskserve_instances_total", found)
    batch = answers[0].timings
    stages = {
        "decode": sum(answer.timings.decode_ms for answer in answers),
        "preprocess": batch.preprocess_ms,
        "inference": batch.inference_ms,
        "postprocess": sum(answer.timings.postprocess_ms for answer in answers),
    }
    for stage, stage_ms in stages.items():
        _observe(metrics, "maskserve_stage_seconds", stage_ms / 1000, "s", stage=stage)
    _observe(metrics, "maskserve_batch_seconds", batch.total_ms / 1000, "s")
    _observe(metrics, "maskserve_batch_images", batch.batch_size, "count")


def _count(metrics: Any, name: str, value: int, **labels: str) -> None:
    metrics.add_counter(name, value, dimensions=_dimensions(labels))


def _observe(metrics: Any, name: str, value: float, unit: str, **labels: str) -> None:
    from ts.metrics.metric_type_enum import MetricTypes

    # four decimals: TorchServe's parser does not know 1e-07
    dimensions = _dimensions(labels)
    metrics.add_metric(name, round(value, 4), unit, dimensions=dimensions, metric_type=MetricTypes.HISTOGRAM)


def _dimensions(labels: dict[str, str]) -> list[Any]:
    """A fresh list every time: TorchServe appends the model's name and the level to it."""
    from ts.metrics.dimension import Dimension

    return [Dimension(name, value) for name, value in labels.items()]
