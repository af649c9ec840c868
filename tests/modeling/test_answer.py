"""From a prediction to the contract's answer: options, areas, coverage."""

import numpy as np
import pytest

from maskserve.imaging.rle import decode_rle
from maskserve.modeling.answer import to_segmentation
from maskserve.modeling.predictor import Prediction
from maskserve.protos.errors import RequestError
from maskserve.protos.types import ErrorCode, ModelInfo, SegmentOptions

CLASSES = ("giant panda", "red panda")
MODEL = ModelInfo("mask_rcnn_mnv2_fpn", "1.0", "mobilenetv2")
PREDICTION = Prediction(
    size=(40, 60),
    boxes_xyxy=np.array([[10, 10, 30, 20], [10, 10, 30, 20], [0, 0, 60, 40]], np.float32),
    scores=np.array([0.9, 0.6, 0.3], np.float32),
    class_ids=np.array([0, 1, 1]),
    mask_probs=np.ones((3, 28, 28), np.float32),
)


def answer(**options: object):
    return to_segmentation(PREDICTION, SegmentOptions(**options), CLASSES, MODEL)


def test_instances_above_the_default_threshold_with_masks_areas_and_coverage():
    found = answer()
    assert [(i.class_name, round(i.score, 2)) for i in found.instances] == [("giant panda", 0.9), ("red panda", 0.6)]
    first = found.instances[0]
    assert first.box_xyxy == (10, 10, 30, 20)
    assert first.mask_rle is not None
    assert decode_rle(first.mask_rle).sum() == first.area_px > 150
    assert found.coverage.total == pytest.approx(first.area_px / (40 * 60))  # both masks are the same pixels
    assert (found.size, found.model) == ((40, 60), MODEL)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"score_threshold": 0.0}, 3),
        ({"score_threshold": 1.0}, 0),
        ({"score_threshold": 0.0, "max_instances": 1}, 1),
        ({"score_threshold": 0.0, "class_names": ("red panda",)}, 2),
    ],
)
def test_options_choose_the_best_scored(options: dict, count: int):
    assert len(answer(**options).instances) == count


def test_without_masks_areas_and_coverage_stay():
    plain, full = answer(mask_format="none"), answer()
    assert [i.mask_rle for i in plain.instances] == [None, None]
    assert [i.area_px for i in plain.instances] == [i.area_px for i in full.instances]
    assert plain.coverage == full.coverage


def test_every_class_is_a_key_of_the_coverage_even_in_an_empty_answer():
    assert answer(score_threshold=1.0).coverage.by_class == {"giant panda": 0.0, "red panda": 0.0}


def test_an_unknown_class_is_the_sender_s_error():
    with pytest.raises(RequestError, match="koala") as caught:
        answer(class_names=("koala",))
    assert (caught.value.code, caught.value.field) == (ErrorCode.OPTIONS_INVALID, "class_names")
