"""Parts that train faster on a CPU: losses and gradients are Detectron2's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from maskserve.modeling.roi_align_backward import TrainablePooler
from maskserve.training import quick_parts, rpn_head
from tests.runs import tiny_cfg
from tests.training.test_step import photo


def network(backbone: str, frozen: str) -> Any:
    """Random weights; norms of the trunk frozen with statistics of their own, its first stages without gradients."""
    cfg = tiny_cfg(backbone, 2)
    (cfg.MODEL.RESNETS if backbone == "resnet50" else cfg.MODEL.MOBILENETV2).NORM = frozen
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    torch.manual_seed(0)
    model = build_model(cfg)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.weight.uniform_(0.3, 0.6)  # small: a random network with frozen norms explodes
    return model.to(memory_format=torch.channels_last)


def one_step(model: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses and gradients of a step that always draws the same lots."""
    torch.manual_seed(7)
    with EventStorage():
        losses = model([photo(seed) for seed in range(3)])
    sum(losses.values()).backward()
    return {name: loss.detach() for name, loss in losses.items()}, {
        name: p.grad for name, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize(
    ("backbone", "norm"), [("mobilenetv2", "FrozenBN"), ("resnet50", "FrozenBN"), ("resnet50", "GN")]
)
def test_a_step_has_the_losses_and_gradients_of_detectron2_s_parts(backbone: str, norm: str) -> None:
    theirs = network(backbone, norm)
    ours = copy.deepcopy(theirs)
    quick_parts.quicken(ours)
    assert isinstance(ours.roi_heads.mask_pooler, TrainablePooler)
    expected_losses, expected = one_step(theirs)
    losses, gradients = one_step(ours)
    assert gradients.keys() == expected.keys()
    for name, loss in expected_losses.items():
        assert float(losses[name]) == pytest.approx(float(loss), rel=1e-3), name
    for name, gradient in expected.items():
        distance = float((gradients[name] - gradient).norm() / gradient.norm().clamp(min=1e-6))
        assert distance < 1e-2, (name, distance)


def test_the_weights_keep_their_names() -> None:
    model = network("mobilenetv2", "FrozenBN")
    names = list(model.state_dict())
    quick_parts.quicken(model)
    assert list(model.state_dict()) == names


def test_a_copy_of_the_model_uses_its_own_weights() -> None:
    """The average of the weights is a copy."""
    model = network("mobilenetv2", "FrozenBN")
    quick_parts.quicken(model)
    copied = copy.deepcopy(model)
    assert copied.proposal_generator.rpn_head.forward.args[0] is copied.proposal_generator.rpn_head


def test_without_numba_detectron2_s_pooling_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_parts, "can_replace", lambda _pooler: False)
    model = network("mobilenetv2", "FrozenBN")
    pooler = model.roi_heads.box_pooler
    quick_parts.quicken(model)
    assert model.roi_heads.box_pooler is pooler


def head() -> StandardRPNHead:
    made = StandardRPNHead(in_channels=16, num_anchors=3)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made


@pytest.mark.parametrize(("share", "most"), [(0.0, 4096), (0.02, 4096), (1.0, 7)])
def test_the_head_s_gradients_are_those_of_its_convolutions(
    share: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No, few and all positions have one; corners and edges of small levels among them; some taken at a time."""
    monkeypatch.setattr(rpn_head, "MOST_POSITIONS", most)
    theirs = head()
    found = []
    for forward in (theirs.forward, lambda features: rpn_head.predict(theirs, features)):
        theirs.zero_grad()
        generator = torch.Generator().manual_seed(2)
        features = [
            torch.randn(2, 16, *size, generator=generator).requires_grad_() for size in ((9, 13), (3, 4), (1, 1))
        ]
        scores, deltas = forward(features)
        loss = torch.zeros(())
        for output in (*scores, *deltas):
            chosen = torch.rand(output.shape[0], 1, *output.shape[2:], generator=generator) < share
            loss = loss + (output**2 * chosen).sum()
        loss.backward()
        found.append([*scores, *deltas, *(f.grad for f in features), *(p.grad for p in theirs.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_other_heads_stay_as_they_are() -> None:
    assert rpn_head.fits(head())
    assert not rpn_head.fits(StandardRPNHead(in_channels=16, num_anchors=3, conv_dims=(8, 8)))
    separable = head()
    separable.conv = nn.Conv2d(16, 16, 3, padding=1)
    assert not rpn_head.fits(separable)
