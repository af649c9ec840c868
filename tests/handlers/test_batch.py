"""A batch: one answer per row, in order, and a bad image harms nobody but its sender."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maskserve.handlers.batch import Answer, Engine, answer_batch
from maskserve.handlers.request import read_photo
from maskserve.modeling import compiled
from maskserve.protos.codec import encode_options
from maskserve.protos.errors import RequestError
from maskserve.protos.types import ErrorCode, Segmentation, SegmentOptions
from tests.runs import CLASS_NAMES


class FailsOn:
    """The engine's predictor, but a batch that holds an image of `height` px raises `error`."""

    def __init__(self, real: Any, height: int, error: Exception) -> None:
        self._real, self._height, self._error = real, height, error
        self.class_names = real.class_names
        self.network_size = real.network_size
        self.batches: list[int] = []

    def __call__(self, images: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]) -> Any:
        self.batches.append(len(images))
        if any(height == self._height for height, _ in sizes):
            raise self._error
        return self._real(images, sizes)


def _outcome(answer: Answer) -> Segmentation:
    assert isinstance(answer.outcome, Segmentation), answer.outcome
    return answer.outcome


def _without_times(outcome: Any) -> Any:
    return dataclasses.replace(outcome, timings=None) if isinstance(outcome, Segmentation) else outcome


def test_an_answer_holds_everything_that_was_promised(engine: Engine, photo: bytes) -> None:
    """Size, instances with masks, coverage of every class, the model's signature, times of all stages."""
    (answer,) = answer_batch([{"image": photo}], engine)
    found = _outcome(answer)
    assert found.size == (90, 120)
    assert found.instances
    assert all(one.mask_rle is not None and one.mask_rle.size == (90, 120) for one in found.instances)
    assert [one.score for one in found.instances] == sorted((one.score for one in found.instances), reverse=True)
    assert set(found.coverage.by_class) == set(CLASS_NAMES)
    assert 0 < found.coverage.total <= 1
    assert found.model == engine.model
    times = found.timings
    assert times.batch_size == 1
    assert min(times.decode_ms, times.preprocess_ms, times.inference_ms, times.postprocess_ms) > 0
    stages = times.decode_ms + times.preprocess_ms + times.inference_ms + times.postprocess_ms
    assert stages <= times.total_ms < stages + 50


def test_each_image_of_a_batch_follows_its_own_options(engine: Engine, photo: bytes) -> None:
    """Threshold, maximum, mask format and classes belong to one image."""
    options = [
        SegmentOptions(max_instances=1),
        SegmentOptions(score_threshold=1.0),
        SegmentOptions(mask_format="none"),
        SegmentOptions(class_names=("red panda",)),
    ]
    rows = [{"image": photo, "options": encode_options(one)} for one in options]
    one, none, maskless, red = (_outcome(answer) for answer in answer_batch(rows, engine))
    assert len(one.instances) == 1
    assert none.instances == ()
    assert none.coverage.total == 0
    assert maskless.instances
    assert all(instance.mask_rle is None and instance.area_px > 0 for instance in maskless.instances)
    assert {instance.class_name for instance in red.instances} <= {"red panda"}


def test_a_big_jpeg_is_decoded_smaller_and_answered_in_its_own_pixels(engine: Engine) -> None:
    """The answer speaks of the photo as it was sent, and finds what it finds in the whole of it."""
    coarse = np.random.default_rng(2).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    file, whole = BytesIO(), BytesIO()
    image = Image.fromarray(coarse).resize((2000, 1500), Image.Resampling.BICUBIC)
    image.save(file, "JPEG", quality=95)
    image.save(whole, "PNG", compress_level=1)
    read = read_photo({"image": file.getvalue()}, engine.predictor.network_size)
    assert read.pixels.shape[0] < read.size[0] == 1500
    near, expected = (_outcome(answer_batch([{"image": one.getvalue()}], engine)[0]) for one in (file, whole))
    assert near.size == (1500, 2000)
    assert near.instances[0].mask_rle is not None
    assert near.instances[0].mask_rle.size == (1500, 2000)
    assert near.instances[0].score == pytest.approx(expected.instances[0].score, abs=0.02)
    np.testing.assert_allclose(near.instances[0].box_xyxy, expected.instances[0].box_xyxy, atol=20)


@pytest.mark.parametrize("place", range(4))
def test_a_bad_image_fails_alone_and_leaves_the_others_as_they_were(engine: Engine, photo: bytes, place: int) -> None:
    """Its neighbours get the same instances as without it, wherever in the batch it stands."""
    (alone,) = answer_batch([{"image": photo}], engine)
    rows = [{"image": photo, "request_id": str(index).encode()} for index in range(4)]
    rows[place]["image"] = photo[:200]
    answers = answer_batch(rows, engine)
    assert [answer.envelope.request_id for answer in answers] == ["0", "1", "2", "3"]
    for index, answer in enumerate(answers):
        if index == place:
            assert isinstance(answer.outcome, RequestError)
            assert answer.outcome.code == ErrorCode.IMAGE_UNREADABLE
        else:
            found, wanted = _outcome(answer), _outcome(alone)
            assert [one.mask_rle for one in found.instances] == [one.mask_rle for one in wanted.instances]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("a bug"), ErrorCode.INFERENCE_FAILED),
        (MemoryError(), ErrorCode.OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), ErrorCode.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ErrorCode.OUT_OF_MEMORY),
        (torch.AcceleratorError("CUDA error: out of memory", 2), ErrorCode.OUT_OF_MEMORY),
    ],
)
def test_when_a_batched_forward_raises_only_the_culprit_fails(
    engine: Engine, photo: bytes, tall_photo: bytes, error: Exception, code: ErrorCode
) -> None:
    """The batch is run again one by one, so that the innocent are answered; the text of the bug stays inside."""
    failing = FailsOn(engine.predictor, 150, error)
    broken = dataclasses.replace(engine, predictor=failing)
    answers = answer_batch([{"image": photo}, {"image": tall_photo}, {"image": photo}], broken)
    assert failing.batches == [3, 1, 1, 1]
    assert [type(answer.outcome) for answer in answers] == [Segmentation, RequestError, Segmentation]
    culprit = answers[1].outcome
    assert isinstance(culprit, RequestError)
    assert culprit.code == code
    assert "CUDA" not in culprit.message
    assert "bug" not in culprit.message


def test_an_unknown_class_is_that_requests_error(engine: Engine, photo: bytes) -> None:
    """The error names the option, and the neighbour is answered."""
    options = encode_options(SegmentOptions(class_names=("polar bear",)))
    bad, good = answer_batch([{"image": photo, "options": options}, {"image": photo}], engine)
    assert isinstance(bad.outcome, RequestError)
    assert (bad.outcome.code, bad.outcome.field) == (ErrorCode.OPTIONS_INVALID, "class_names")
    assert isinstance(good.outcome, Segmentation)


def test_a_batch_of_bad_images_never_reaches_the_model(engine: Engine) -> None:
    """No forward is run for nothing."""
    failing = FailsOn(engine.predictor, -1, ValueError())
    answers = answer_batch([{"image": b"no"}, {}], dataclasses.replace(engine, predictor=failing))
    assert [type(answer.outcome) for answer in answers] == [RequestError, RequestError]
    assert failing.batches in ([], [0])


def test_the_same_photo_gives_the_same_answer(engine: Engine, photo: bytes) -> None:
    """Two requests with equal bytes differ in their times only."""
    first, second = (answer_batch([{"image": photo}], engine)[0].outcome for _ in range(2))
    assert _without_times(first) == _without_times(second)


def test_a_model_that_fails_its_warm_up_does_not_load(engine: Engine) -> None:
    """A broken model must be loud at load time, not at the first request."""
    with pytest.raises(RuntimeError, match="synthetic photo"):
        dataclasses.replace(engine, predictor=FailsOn(engine.predictor, 480, ValueError("broken"))).warm_up()


def test_after_a_cuda_error_the_worker_ends(engine: Engine, photo: bytes) -> None:
    """Its context answers nothing any more, and TorchServe starts a fresh worker; a lack of memory is no such error."""
    lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)
    with pytest.raises(SystemExit):
        answer_batch([{"image": photo}], dataclasses.replace(engine, predictor=FailsOn(engine.predictor, 90, lost)))


def test_the_photos_of_a_batch_are_read_on_all_threads(engine: Engine, photo: bytes, monkeypatch: pytest.MonkeyPatch):
    """At the same time, each answer in its row's place, a broken photo's too."""
    both = threading.Barrier(2, timeout=20)

    def read(row: dict[str, bytes], **options: Any) -> Any:
        both.wait()
        return read_photo(row, **options)

    monkeypatch.setattr("maskserve.handlers.batch.read_photo", read)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    fine, broken = answer_batch([{"image": photo}, {"image": photo[:200]}], engine)
    assert _outcome(fine).size == (90, 120)
    assert isinstance(broken.outcome, RequestError)
    assert broken.outcome.code == ErrorCode.IMAGE_UNREADABLE


def test_the_warm_up_pastes_a_mask_although_noise_has_none(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """Else the first sender with an instance would wait until that is compiled: with a real one's types, nothing is."""
    strict = dataclasses.replace(engine, score_threshold=1.0)
    if not compiled.is_there():
        pytest.skip("numba is not installed")
    compiled._load.cache_clear()
    strict.warm_up()
    paste = compiled.mask_kernels().paste
    (known,) = paste.signatures
    paste(np.ones((28, 28), np.float32), np.ones(4, np.float32), 30, 40)
    assert paste.signatures == [known]
