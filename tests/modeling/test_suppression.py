"""The boxes that torchvision keeps, group by group, and no work for those that nobody asked for."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import nms
from torch import Tensor

from maskserve.modeling import suppression


def scene(count: int, groups: int, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of 5 to 125 px that overlap much or little, their scores and groups."""
    generator = torch.Generator().manual_seed(count)
    centre = torch.rand(count, 2, generator=generator) * spread
    half = torch.rand(count, 2, generator=generator) * 60 + 2.5
    boxes = torch.cat([centre - half, centre + half], 1)
    return (
        boxes,
        torch.randn(count, generator=generator),
        torch.randint(0, groups, (count,), generator=generator),
    )


def expected(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, most: int) -> Tensor:
    """torchvision's suppression of each group alone, then the best of all that are left."""
    places = [torch.nonzero(groups == group)[:, 0] for group in groups.unique()]
    kept = torch.cat([own[nms(boxes[own], scores[own], threshold)] for own in places])
    return kept[scores[kept].argsort(descending=True)][:most]


@pytest.mark.parametrize(
    ("count", "groups", "spread", "most"),
    [(1500, 5, 300, 200), (1500, 5, 300, 10_000), (400, 80, 100, 100), (1, 1, 9, 9)],
)
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_the_kept_boxes_are_torchvision_s(count: int, groups: int, spread: float, most: int, threshold: float) -> None:
    boxes, scores, own = scene(count, groups, spread)
    found = suppression.suppress(boxes, scores, own, threshold, most)
    assert found.tolist() == expected(boxes, scores, own, threshold, most).tolist()


def test_equal_boxes_of_equal_score_keep_the_first() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(3, 1)
    assert suppression.suppress(boxes, torch.ones(3), torch.tensor([0, 0, 1]), 0.5, 9).tolist() == [0, 2]


def test_nothing_is_kept_of_nothing() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert suppression.suppress(torch.zeros(0, 4), torch.zeros(0), none, 0.5, 9).tolist() == []


def test_without_numba_torchvision_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores, own = scene(1500, 5, 300)
    with_numba = suppression.suppress(boxes, scores, own, 0.7, 200)
    monkeypatch.setattr(suppression.compiled, "is_there", lambda: False)
    monkeypatch.setattr(suppression.compiled, "kernels", None)
    assert suppression.suppress(boxes, scores, own, 0.7, 200).tolist() == with_numba.tolist()
