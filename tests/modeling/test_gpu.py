"""What runs on a GPU gives the answers of the CPU. Needs a GPU: CI has none, docs/benchmarks.md says where they ran."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from maskserve.modeling import one_pass, recorded
from maskserve.modeling.predictor import Predictor
from maskserve.modeling.resize import resize, resize_on_gpu
from tests.networks import CLASSES, NETWORKS, as_detectron2, assert_same, network

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use")
AS_SEEN = (96, 136)
"""px: the networks of `tests.networks` see it as it is."""


@pytest.fixture
def exact() -> Iterator[None]:
    """Convolutions in float32: by default torch rounds their inputs to TF32 on a GPU."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def photos(count: int, size: tuple[int, int] = AS_SEEN) -> list[np.ndarray]:
    return list(np.random.default_rng(3).integers(0, 256, (count, *size, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_answers_as_detectron2_does_on_the_cpu(name: str, exact: None, monkeypatch: pytest.MonkeyPatch):
    cfg, model = network(*NETWORKS[name])
    images = photos(3)
    theirs = as_detectron2(model, cfg, images)
    predictor = Predictor(cfg, CLASSES, weights=model.state_dict(), device="cuda")
    assert predictor._one_pass is not None
    monkeypatch.setattr(predictor, "_step_by_step", None)
    together, _ = predictor(images)
    assert_same(together, theirs, images)
    alone = [predictor([image])[0][0] for image in images]  # recorded with the first, played back for the others
    assert_same(alone, theirs, images)


def test_a_recording_that_was_thrown_away_is_made_anew(exact: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recorded, "SIZES_KEPT", 2)
    cfg, model = network("mobilenetv2", "quick")
    predictor = Predictor(cfg, CLASSES, weights=model.state_dict(), device="cuda")
    images = [photos(1, (96, width))[0] for width in (96, 128, 160, 96, 128, 160, 160)]
    found = [predictor([image])[0][0] for image in images]
    theirs = [as_detectron2(model, cfg, [image])[0] for image in images]  # a batch would be padded to one size
    assert_same(found, theirs, images)


def test_what_does_not_fit_into_one_pass_goes_the_long_way(exact: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(one_pass, "CANDIDATES", 5)
    cfg, model = network("mobilenetv2", "quick")
    images = photos(2)
    predictor = Predictor(cfg, CLASSES, weights=model.state_dict(), device="cuda")
    assert_same(predictor(images)[0], as_detectron2(model, cfg, images), images)


def test_bfloat16_gives_nearly_the_same_answer():
    cfg, model = network("mobilenetv2", "quick")
    weights, images = model.state_dict(), photos(1)
    (exact,), _ = Predictor(cfg, CLASSES, weights=weights, device="cuda")(images)
    (rough,), _ = Predictor(cfg, CLASSES, weights=weights, device="cuda", precision="bf16")(images)
    assert abs(rough.scores[0] - exact.scores[0]) < 0.05
    assert (rough.scores[:5] != exact.scores[:5]).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 2), (300, 200)])
def test_any_size_is_answered_in_its_own_pixels(size: tuple[int, int]):
    cfg, model = network("mobilenetv2", "quick")
    (found,), _ = Predictor(cfg, CLASSES, weights=model.state_dict(), device="cuda")(photos(1, size))
    assert found.size == size
    assert (found.boxes_xyxy <= [size[1], size[0], size[1], size[0]]).all()


@pytest.mark.parametrize("wanted", [(96, 128), (400, 533), (9, 12), (1, 2)])
def test_photos_are_resized_as_on_the_cpu(wanted: tuple[int, int]):
    (image,) = photos(1, (300, 401))
    ours = resize_on_gpu(image, wanted, (1199, 1601), torch.device("cuda"))
    assert np.abs(ours.cpu().numpy() - resize(image, wanted, (1199, 1601))).max() <= 1


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools on numpy 2.4
def test_a_training_and_its_evaluation_run_on_the_gpu(pandas: Path, tmp_path: Path):
    from maskserve.cli.main import main

    steps = ["SOLVER.MAX_ITER", "3", "SOLVER.IMS_PER_BATCH", "2", "TEST.EVAL_PERIOD", "0"]
    options = ["--data", str(pandas), "--preset", "quick", "--init", "none", "--output", str(tmp_path)]
    done = CliRunner().invoke(main, ["train", "mobilenetv2", *options, *steps])
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "mask_rcnn_mnv2_fpn" / "run.json").read_text())
    assert facts["peak_gpu_memory_bytes"] > 10**7
