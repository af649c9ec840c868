"""Pooling that is trained through: the gradients are Detectron2's, whatever the number of threads."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor

from maskserve.modeling.roi_align_backward import TrainablePooler

CHANNELS = 40
EDGES = torch.tensor([[0.0, 0.0, 128.0, 96.0], [-40.0, -60.0, 30.0, 20.0], [120.0, 90.0, 200.0, 150.0], [9.0, 9, 9, 9]])


def gradients(kind: str, side: int, ratio: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The pooled boxes of two images and the gradients for the four levels."""
    pooler = ROIPooler(side, (1 / 4, 1 / 8, 1 / 16, 1 / 32), ratio, "ROIAlignV2", canonical_box_size=56)
    used = TrainablePooler(pooler, torch.float32) if kind == "ours" else pooler
    generator = torch.Generator().manual_seed(5)
    features = [
        torch.randn(2, CHANNELS, 96 // stride, 128 // stride, generator=generator)
        .to(dtype, memory_format=torch.channels_last)
        .requires_grad_()
        for stride in (4, 8, 16, 32)
    ]
    corner = torch.rand(60, 2, generator=generator) * 90
    boxes = torch.cat([corner, corner + torch.rand(60, 2, generator=generator) ** 2 * 600], 1)
    pooled = used(features, [Boxes(torch.cat([EDGES, boxes])), Boxes(boxes[:7])])
    pooled.backward(torch.randn(pooled.shape, generator=generator).to(pooled.dtype))
    return [pooled.detach(), *(feature.grad for feature in features if feature.grad is not None)]


@pytest.mark.parametrize(("side", "ratio"), [(7, 2), (14, 0), (7, 1)])
def test_the_features_get_detectron2_s_gradients(side: int, ratio: int) -> None:
    """Boxes that reach out of the image or have no inside among them; all four levels are used."""
    for ours, theirs in zip(gradients("ours", side, ratio), gradients("theirs", side, ratio), strict=True):
        assert theirs.abs().max() > 0
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def test_the_number_of_threads_changes_no_bit() -> None:
    before = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(gradients("ours", 7, 2))
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_bfloat16_features_get_bfloat16_gradients() -> None:
    exact = gradients("ours", 7, 2)
    for rounded, wanted in zip(gradients("ours", 7, 2, torch.bfloat16), exact, strict=True):
        assert rounded.dtype == torch.bfloat16
        assert float((rounded.float() - wanted).norm() / wanted.norm()) < 0.02


def test_a_batch_without_boxes_gives_no_gradient() -> None:
    pooler = TrainablePooler(ROIPooler(7, (1 / 4,), 0, "ROIAlignV2"), torch.float32)
    feature = torch.randn(1, 3, 16, 16, requires_grad=True)
    pooler([feature], [Boxes(torch.zeros(0, 4))]).sum().backward()
    assert feature.grad is not None
    assert not feature.grad.any()
