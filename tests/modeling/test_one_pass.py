"""The way of the GPU, here on the CPU: the same operators, the same answers as Detectron2's own code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from detectron2.layers import batched_nms
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor

from maskserve.modeling import atlas, one_pass
from maskserve.modeling import survivors as rounds
from maskserve.modeling.one_pass import OnePass
from maskserve.modeling.predictor import Predictor
from maskserve.modeling.survivors import survivors
from tests.modeling import cuda_on_cpu
from tests.networks import CLASSES, NETWORKS, as_detectron2, assert_same, network


def in_one_pass(cfg: Any, weights: dict[str, Tensor]) -> Predictor:
    """A predictor that goes the GPU's way."""
    predictor = Predictor(cfg, CLASSES, weights=weights, device="cpu")
    assert one_pass.fits(predictor._heads)
    predictor._one_pass = OnePass(predictor.trunk, predictor._rpn, predictor._heads, torch.float32)
    return predictor


def noise(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_answers_as_detectron2_does(name: str, monkeypatch: pytest.MonkeyPatch):
    cfg, model = network(*NETWORKS[name])
    images = noise((120, 170), (200, 140))
    predictor = in_one_pass(cfg, model.state_dict())
    monkeypatch.setattr(predictor, "_step_by_step", None)
    assert_same(predictor(images)[0], as_detectron2(model, cfg, images), images)


@pytest.mark.parametrize("name", NETWORKS)
def test_with_the_gpus_own_kernels_too(name: str, monkeypatch: pytest.MonkeyPatch):
    """Compiled for the CPU; with few proposals, as a block for each takes long there."""
    few = ("MODEL.RPN.PRE_NMS_TOPK_TEST", "150", "MODEL.RPN.POST_NMS_TOPK_TEST", "40")
    cfg, model = network(*NETWORKS[name], *few)
    images = noise((120, 170), (200, 140))
    theirs = as_detectron2(model, cfg, images)
    cuda_on_cpu.pretend(monkeypatch)
    predictor = in_one_pass(cfg, model.state_dict())
    monkeypatch.setattr(predictor, "_step_by_step", None)
    assert_same(predictor(images)[0], theirs, images)


@pytest.mark.parametrize("limit", [(one_pass, "CANDIDATES", 5), (rounds, "ROUNDS", 1)])
def test_what_does_not_fit_goes_the_long_way(limit: tuple[Any, str, int], monkeypatch: pytest.MonkeyPatch):
    cfg, model = network("mobilenetv2", "quick")
    images = noise((120, 170))
    predictor = in_one_pass(cfg, model.state_dict())
    ways = []
    monkeypatch.setattr(
        predictor, "_step_by_step", lambda *of: ways.append(1) or Predictor._step_by_step(predictor, *of)
    )
    monkeypatch.setattr(*limit)
    assert_same(predictor(images)[0], as_detectron2(model, cfg, images), images)
    assert ways


def test_large_batches_are_shared_out(monkeypatch: pytest.MonkeyPatch):
    cfg, model = network("mobilenetv2", "quick")
    images = noise((96, 130), (96, 131), (96, 132))
    predictor = in_one_pass(cfg, model.state_dict())
    monkeypatch.setattr("maskserve.modeling.predictor.PIXELS_AT_ONCE", 96 * 160 * 2)
    monkeypatch.setattr(predictor, "_step_by_step", None)
    assert_same(predictor(images)[0], as_detectron2(model, cfg, images), images)


def test_weights_of_nan_find_nothing():
    cfg, model = network("mobilenetv2", "quick")
    state = {
        name: torch.full_like(one, torch.nan) if one.is_floating_point() else one
        for name, one in model.state_dict().items()
    }
    assert len(in_one_pass(cfg, state)(noise((50, 70)))[0][0].scores) == 0


def test_a_photo_in_which_nothing_scores_has_no_instances():
    cfg, model = network("mobilenetv2", "quick", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.0")
    (found,), _ = in_one_pass(cfg, model.state_dict())(noise((50, 70)))
    assert found.boxes_xyxy.shape == (0, 4)
    assert found.mask_probs.shape == (0, 28, 28)


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("side", [7, 14])
def test_boxes_are_pooled_as_detectron2_pools_them(side: int, ratio: int):
    """Boxes of all levels, and such as touch the image's borders and corners."""
    pooler = ROIPooler(side, (1 / 4, 1 / 8, 1 / 16, 1 / 32), ratio, "ROIAlignV2")
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, 3, 320 // stride, 448 // stride, generator=generator) for stride in (4, 8, 16, 32)]
    corners = torch.rand(2, 200, 4, generator=generator) * torch.tensor([448.0, 320.0, 448.0, 320.0])
    boxes = torch.cat([corners[..., :2].minimum(corners[..., 2:]), corners[..., :2].maximum(corners[..., 2:])], -1)
    boxes[0, :4] = torch.tensor(
        [[0, 0, 448, 320], [0, 0, 9, 9], [440.5, 311.5, 448, 320], [0, 300, 448, 320]], dtype=torch.float32
    )
    ours = atlas.pool(atlas.draw(features), boxes, pooler)
    theirs = pooler(features, [Boxes(one) for one in boxes])
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_the_survivors_are_those_of_torchvision(threshold: float):
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(3, 300, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + 5 + 30 * torch.rand(3, 300, 2, generator=generator)], -1)
    classes = torch.randint(0, 2, (3, 300), generator=generator)
    usable = torch.rand(3, 300, generator=generator) < 0.9
    kept, settled = survivors(boxes, usable, threshold, classes)
    assert settled.all()
    for group in range(3):
        chosen = usable[group].nonzero()[:, 0]
        scores = torch.linspace(1, 0, len(chosen))
        theirs = chosen[batched_nms(boxes[group, chosen], scores, classes[group, chosen], threshold)]
        assert kept[group].nonzero()[:, 0].tolist() == sorted(theirs.tolist())


def test_a_chain_longer_than_the_rounds_is_told():
    """Each box overlaps its neighbours alone: who survives depends on the very first."""
    left = torch.arange(0, 200.0)
    boxes = torch.stack([left, left * 0, left + 2, left * 0 + 1], 1)[None]
    kept, settled = survivors(boxes, torch.ones(1, 200, dtype=torch.bool), 0.2)
    assert not settled.any()
    kept, settled = survivors(boxes[:, :40], torch.ones(1, 40, dtype=torch.bool), 0.2)
    assert settled.all()
    assert kept[0].nonzero()[:, 0].tolist() == list(range(0, 40, 2))
