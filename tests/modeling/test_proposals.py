"""Anchors by their places alone. What is made of them is compared with Detectron2 elsewhere (test_fast_path)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

from maskserve.modeling.proposals import flat_levels


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_anchors_are_detectron2s(offset: float):
    """Of every place, in the order of the flat logits, to the last bit."""
    generator = DefaultAnchorGenerator(
        sizes=[[32, 45.5], [64]], aspect_ratios=[[0.5, 1, 2]], strides=[4, 8], offset=offset
    )
    logits = [torch.zeros(1, 6, 7, 11), torch.zeros(1, 3, 200, 301)]
    deltas = [torch.zeros(1, 24, 7, 11), torch.zeros(1, 12, 200, 301)]
    anchors, flat, _ = flat_levels(SimpleNamespace(anchor_generator=generator), logits, deltas)
    for theirs, ours, places in zip(generator(logits), anchors, flat, strict=True):
        assert torch.equal(ours(torch.arange(places.shape[1])), theirs.tensor)
