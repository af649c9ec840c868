"""Anchors: fitted to boxes as the network sees them, never worse than those they start from."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import BoxMode
from hypothesis import given
from hypothesis import strategies as st

from maskserve.protos.errors import ConfigError
from maskserve.training.anchors import fit, fit_anchors, mean_best_iou, training_boxes
from maskserve.training.presets import ARMS, resolve_cfg
from maskserve.training.train import Job, train
from tests.training.recorder import TINY, Recorder

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools on numpy 2.4
SIZES, RATIOS = np.array([16.0, 32, 64, 128]), np.array([0.5, 1.0, 2.0])


def config(*overrides: str):
    return resolve_cfg(ARMS["mobilenetv2"], preset="quick", recipe="none", class_count=2, seed=3, overrides=overrides)


def record(height: int, width: int, *boxes: tuple[float, float], crowd: int = 0):
    annotations = [
        {"bbox": [0, 0, *box], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": crowd} for box in boxes
    ]
    return {"height": height, "width": width, "annotations": annotations}


def test_boxes_of_known_sizes_and_shapes_are_found_again():
    rng = np.random.default_rng(0)
    size, ratio = rng.choice([20.0, 50.0, 100.0], 3000), rng.choice([0.7, 1.0, 1.5], 3000)
    boxes = np.stack([size / np.sqrt(ratio), size * np.sqrt(ratio)], axis=1) * rng.normal(1, 0.02, (3000, 2))
    sizes, ratios = fit(boxes, SIZES, RATIOS)
    assert sizes == pytest.approx([20, 32, 50, 100], rel=0.02)  # 32 is nobody's nearest
    assert ratios == pytest.approx([0.7, 1.0, 1.5], rel=0.03)
    assert mean_best_iou(boxes, sizes, ratios) > 0.95


def test_a_level_without_boxes_keeps_its_size():
    sizes, _ = fit(np.full((5, 2), 60.0), SIZES, RATIOS)
    assert sizes.tolist() == [16, 32, 60, 128]


@given(st.lists(st.tuples(st.floats(1, 900), st.floats(1, 900)), min_size=1, max_size=30))
def test_fitted_anchors_are_never_worse_and_levels_stay_in_order(boxes):
    boxes = np.array(boxes)
    sizes, ratios = fit(boxes, SIZES, RATIOS)
    assert mean_best_iou(boxes, sizes, ratios) >= mean_best_iou(boxes, SIZES, RATIOS)
    assert (np.diff(sizes) >= 0).all()
    assert (ratios > 0).all()


def test_the_nearness_is_the_iou_with_detectron2s_anchors():
    (anchors,) = DefaultAnchorGenerator(sizes=[[40.0]], aspect_ratios=[[2.0]], strides=[8]).cell_anchors
    left, top, right, bottom = anchors[0].tolist()
    assert mean_best_iou(np.array([[right - left, bottom - top]]), np.array([40.0]), np.array([2.0])) == pytest.approx(
        1
    )
    assert mean_best_iou(np.array([[right - left, 10.0]]), np.array([40.0]), np.array([2.0])) == pytest.approx(
        10 / (bottom - top)
    )


def test_boxes_are_taken_at_training_size_without_crowds_and_empty_ones():
    cfg = config("INPUT.MIN_SIZE_TRAIN", "(64,128,200)")
    records = [record(256, 512, (100, 50), (0, 9)), record(512, 256, (10, 30)), record(9, 9, (9, 9), crowd=1)]
    assert training_boxes(cfg, records).tolist() == [[50, 25], [5, 15]]


def test_the_config_says_what_was_chosen():
    said = []
    cfg = fit_anchors(config(), [record(128, 128, *[(60, 60)] * 4)], say=said.append)
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[16.0], [32.0], [60.0], [128.0]]
    assert cfg.is_frozen()
    (text,) = said
    assert "4 boxes: sizes 16, 32, 60, 128 px, height ÷ width 0.5, 1, 2" in text
    assert "mean best IoU 1.000, before 0.879" in text


def test_without_boxes_the_anchors_stay():
    cfg = fit_anchors(config(), [record(128, 128)], say=lambda _text: None)
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[16], [32], [64], [128]]


def test_anchors_of_another_form_are_refused():
    cfg = config("MODEL.ANCHOR_GENERATOR.SIZES", "[[16, 20], [32], [64], [128]]")
    with pytest.raises(ConfigError, match=r"FIT: starts from one size for each of the 4 levels"):
        fit_anchors(cfg, [record(128, 128, (60, 60))], say=lambda _text: None)


def trained_anchors(data: Path, output: Path, *more: str):
    """ANCHOR_GENERATOR of the config that a training of one step leaves, and whether it says that it fitted."""
    overrides = (*TINY, "SOLVER.MAX_ITER", "1", "MODEL.ANCHOR_GENERATOR.FIT", "True", *more)
    progress = Recorder()
    done = train(Job("mobilenetv2", data, "quick", "none", output, overrides=overrides), progress)
    written = yaml.safe_load((done.run.path / "config.yaml").read_text())["MODEL"]["ANCHOR_GENERATOR"]
    return written, any(note.startswith("anchors fitted to") for note in progress.notes)


@pytest.mark.training
def test_a_training_writes_the_fitted_anchors_into_its_config(pandas: Path, tmp_path: Path):
    written, fitted = trained_anchors(pandas, tmp_path)
    assert fitted
    assert written["SIZES"] != [[16], [32], [64], [128]]
    assert [len(sizes) for sizes in written["SIZES"]] == [1] * 4


@pytest.mark.training
def test_anchors_of_the_command_line_are_not_fitted(pandas: Path, tmp_path: Path):
    """The presets fit; whoever names sizes wants these."""
    written, fitted = trained_anchors(pandas, tmp_path, "MODEL.ANCHOR_GENERATOR.SIZES", "[[12], [24], [48], [96]]")
    assert not fitted
    assert written["SIZES"] == [[12], [24], [48], [96]]
