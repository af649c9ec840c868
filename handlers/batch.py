"""Rows in, one answer per row out, whatever happens to any of them.

    rows ─▶ photos (each alone) ─▶ one forward for all ─▶ segmentations (each alone) ─▶ answers, in the rows' order
                                       └─ raises? ─▶ one forward per photo, so that only the culprit fails

TorchServe fails a whole batch when a handler raises, or returns one answer too few; so every step of every image is
guarded here, and `len(answers) == len(rows)` always.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from maskserve.handlers.request import Envelope, Photo, read_envelope, read_photo
from maskserve.handlers.telemetry import log_failure
from maskserve.modeling.answer import to_segmentation
from maskserve.modeling.paste import paste_masks
from maskserve.modeling.predictor import Prediction, Predictor, StageTimes
from maskserve.modeling.process import on_all_threads
from maskserve.protos import wire
from maskserve.protos.errors import RequestError
from maskserve.protos.types import ErrorCode, ModelInfo, Segmentation, Timings

T = TypeVar("T")
_WARM_UP_SIZE = (480, 640)


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of one row."""

    envelope: Envelope
    outcome: Segmentation | RequestError
    timings: Timings
    """The same as the segmentation's; an error has them too, for the metrics."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A loaded model and how its answers are signed."""

    predictor: Predictor
    model: ModelInfo
    score_threshold: float

    def warm_up(self) -> None:
        """One noisy photo through everything, so that the first sender does not wait for it. Raises what is broken."""
        noise = np.random.default_rng(0).integers(0, 255, (*_WARM_UP_SIZE, 3), dtype=np.uint8)
        file = BytesIO()
        Image.fromarray(noise).save(file, "JPEG")
        (answer,) = answer_batch([{wire.KEY_IMAGE: file.getvalue()}], self)
        if isinstance(answer.outcome, RequestError):
            raise RuntimeError(f"the model fails on a synthetic photo: {answer.outcome.message}")
        # noise has no instances, and the code that pastes masks is compiled with the first
        paste_masks(np.ones((1, 28, 28), np.float32), np.array([[0, 0, 28, 28]], np.float32), _WARM_UP_SIZE)


def answer_batch(rows: Sequence[Mapping[str, Any]], engine: Engine) -> list[Answer]:
    """One answer per row, in order. Raises nothing that an image or its options can cause."""
    start = time.perf_counter()
    envelopes = [read_envelope(row) for row in rows]
    read = partial(guarded, read_photo, seen_at=engine.predictor.network_size)
    photos = on_all_threads(read, rows)
    predictions, times = _predict([photo for photo in photos if isinstance(photo, Photo)], engine.predictor)
    found = iter(predictions)
    answered = [
        (photo, 0.0) if isinstance(photo, RequestError) else _timed(_segment, next(found), photo, engine)
        for photo in photos
    ]
    batch = Timings(
        preprocess_ms=times.preprocess_ms,
        inference_ms=times.inference_ms,
        total_ms=(time.perf_counter() - start) * 1000,
        batch_size=len(rows),
    )
    return [_answer(*parts, batch) for parts in zip(envelopes, photos, answered, strict=True)]


def _answer(
    envelope: Envelope,
    photo: Photo | RequestError,
    answered: tuple[Segmentation | RequestError, float],
    batch: Timings,
) -> Answer:
    outcome, postprocess_ms = answered
    decode_ms = photo.decode_ms if isinstance(photo, Photo) else 0.0
    timings = replace(batch, decode_ms=decode_ms, postprocess_ms=postprocess_ms)
    if isinstance(outcome, Segmentation):
        outcome = replace(outcome, timings=timings)
    return Answer(envelope, outcome, timings)


def _predict(photos: Sequence[Photo], predictor: Predictor) -> tuple[list[Prediction | RequestError], StageTimes]:
    images = [photo.pixels for photo in photos]
    together = guarded(predictor, images, [photo.size for photo in photos])
    if not isinstance(together, RequestError):
        return list(together[0]), together[1]
    if len(images) == 1:
        return [together], StageTimes(0.0, 0.0)
    alone = [_predict([photo], predictor) for photo in photos]
    times = [one for _, one in alone]
    total = StageTimes(sum(one.preprocess_ms for one in times), sum(one.inference_ms for one in times))
    return [prediction for predictions, _ in alone for prediction in predictions], total


def _segment(prediction: Prediction | RequestError, photo: Photo, engine: Engine) -> Segmentation | RequestError:
    if isinstance(prediction, RequestError):
        return prediction
    return guarded(
        to_segmentation,
        prediction,
        photo.options,
        engine.predictor.class_names,
        engine.model,
        engine.score_threshold,
    )


def guarded(step: Callable[..., T], *arguments: Any, **named: Any) -> T | RequestError:
    """What `step` returns, or a RequestError for whatever it raises; what is not the sender's fault is logged."""
    try:
        return step(*arguments, **named)
    except RequestError as error:
        return error
    except Exception as error:  # one image's bug must not take its neighbours
        log_failure(error)
        if _is_device_lost(error):
            # every later request would fail too; TorchServe starts a fresh worker when this one ends
            raise SystemExit(1) from error
        failure = _out_of_memory() if _is_out_of_memory(error) else _failed()
    # the traceback held the step's tensors until here
    gc.collect()
    return failure


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def _is_device_lost(error: Exception) -> bool:
    """A CUDA error is sticky: its context answers nothing any more."""
    return isinstance(error, torch.AcceleratorError) and not _is_out_of_memory(error)


def _out_of_memory() -> RequestError:
    return RequestError(
        ErrorCode.OUT_OF_MEMORY, "The server has not enough memory for this image now; try later or send a smaller one."
    )


def _failed() -> RequestError:
    return RequestError(
        ErrorCode.INFERENCE_FAILED, "The model failed on this image. The server's log says why, under the request id."
    )


def _timed(step: Callable[..., T], *arguments: Any) -> tuple[T, float]:
    start = time.perf_counter()
    result = step(*arguments)
    return result, (time.perf_counter() - start) * 1000
