"""The step: accumulated gradients, losses that are not finite, every photo's share."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from maskserve.training.step import DivergedError, StepTrainer, require_finite
from tests.runs import tiny_cfg

SIZE = 64


def photo(seed: int) -> dict[str, Any]:
    """Noise with two rectangles labelled in it."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 24, (2, 2), generator=generator).float()
    boxes = torch.cat([corners, corners + 30], dim=1)
    masks = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    instances = Instances((SIZE, SIZE))
    instances.gt_boxes, instances.gt_masks = Boxes(boxes), BitMasks(masks)
    instances.gt_classes = torch.tensor([0, 1])
    pixels = torch.randint(0, 256, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    return {"image": pixels, "instances": instances, "height": SIZE, "width": SIZE}


def network() -> torch.nn.Module:
    """A Mask R-CNN with group norm that draws no lots: all regions are trained on, in each photo as many."""
    cfg = tiny_cfg("mobilenetv2", 2)
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 100_000
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 40
    cfg.MODEL.RPN.NMS_THRESH = 1.0
    cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS = [0.999]  # only the labels themselves are positive, two in each photo
    torch.manual_seed(0)
    return build_model(cfg)


def gradients_of(batches: list[list[dict[str, Any]]]) -> dict[str, torch.Tensor]:
    """The gradients of one step made of these parts."""
    model = network()
    trainer = StepTrainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.0), parts=len(batches))
    with EventStorage() as trainer.storage:
        trainer.run_step()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def furthest(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest distance of a parameter's gradient, as a share of its length."""
    return max(float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected)


def test_accumulated_gradients_are_those_of_the_big_batch() -> None:
    """Four photos at once, in two parts and one by one: the same step, for every parameter."""
    photos = [photo(seed) for seed in range(4)]
    whole = gradients_of([photos])
    assert len(whole) > 100
    for parts in ([photos[:2], photos[2:]], [[one] for one in photos]):
        # 1e-6, or 0.006 where rounding makes another proposal the 40th; other photos are 1 away
        assert furthest(gradients_of(parts), whole) < 0.02
    assert furthest(gradients_of([photos[:2], photos[:2]]), whole) > 0.5


class Losses(torch.nn.Module):
    """A model whose losses are scripted."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.values = iter(values)

    def forward(self, _photos: object) -> dict[str, torch.Tensor]:
        return {"loss_cls": self.weight.sum(), "loss_mask": self.weight.sum() * next(self.values)}


@pytest.mark.parametrize(("value", "said"), [("nan", "not a number"), ("inf", "infinite")])
def test_a_loss_that_is_not_finite_is_named_and_changes_no_weight(value: str, said: str) -> None:
    """Step 3 is bad: the weights are those of step 2."""
    model = Losses(1.0, 1.0, float(value))
    trainer = StepTrainer(model, repeat([]), torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(DivergedError, match=rf"step 3: loss_mask is {said}"):
        trainer.train(0, 5)
    assert model.weight.item() == pytest.approx(1 - 2 * 0.2)


def test_the_logged_loss_is_the_mean_of_the_parts() -> None:
    """Not their sum: the same curve whatever ACCUMULATE is."""
    model = Losses(1.0, 3.0)
    trainer = StepTrainer(model, repeat([]), torch.optim.SGD(model.parameters(), lr=0.0), parts=2)
    trainer.train(0, 1)
    latest = trainer.storage.latest()
    assert latest["loss_mask"][0] == pytest.approx(2.0)
    assert latest["total_loss"][0] == pytest.approx(3.0)


def test_weights_that_are_not_finite_are_named() -> None:
    """Whole numbers cannot be; a NaN anywhere counts."""
    require_finite({"steps": torch.tensor(3), "fine": torch.ones(2)}, 7)
    with pytest.raises(DivergedError, match="step 7: the weights of head are not finite"):
        require_finite({"head": torch.tensor([1.0, float("nan")])}, 7)


def test_a_stop_that_was_asked_for_ends_before_the_next_step() -> None:
    """The step under way is finished, weights and all."""
    model = Losses(*[1.0] * 5)
    trainer = StepTrainer(model, repeat([]), torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.stop_asked = True
    with pytest.raises(KeyboardInterrupt):
        trainer.train(0, 5)
    assert trainer.iter == 1
    assert model.weight.item() == pytest.approx(0.8)
