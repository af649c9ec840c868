"""A block in strips answers what it answers whole, wherever its seams are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from maskserve.modeling import strips
from maskserve.modeling.fold import prepare
from maskserve.modeling.fused import fuse
from maskserve.modeling.fused_cpu import FusedResidual
from maskserve.modeling.mobilenetv2 import InvertedResidual

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.mark.parametrize("size", [(1, 40, 24), (1, 41, 23), (2, 17, 8), (1, 1, 5), (1, 2, 2)])
@pytest.mark.parametrize(("stride", "out_channels"), [(1, 8), (1, 16), (2, 16)])
def test_a_block_in_strips_answers_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, stride: int, out_channels: int, size: tuple[int, int, int]
):
    torch.manual_seed(0)
    block = InvertedResidual(8, out_channels, stride=stride, expansion=6, norm="FrozenBN")
    prepare(nn.Sequential(block))
    count, *sides = size
    x = torch.randn(count, 8, *sides).contiguous(memory_format=torch.channels_last)
    whole = block(x)
    fuse(nn.Sequential(block))
    assert type(block) is FusedResidual
    monkeypatch.setattr(strips, "LARGE_BYTES", 0)
    row_bytes = count * sides[1] * 8 * 6 * 4
    for rows in (1, 2, 3, 7):
        monkeypatch.setattr(strips, "STRIP_BYTES", rows * row_bytes)
        assert len(strips.strips(block, x)) > 1 or rows >= sides[0] // stride
        torch.testing.assert_close(block(x.clone()), whole, rtol=1e-5, atol=1e-5)  # whole, it works in x itself


def test_only_large_maps_are_worked_on_in_strips():
    block = InvertedResidual(8, 8, stride=1, expansion=6, norm="FrozenBN")
    small, large = (torch.empty(1, 8, height, 256, device="meta") for height in (32, 1024))
    assert strips.strips(block, small) == [(0, 32)]
    parts = strips.strips(block, large)
    assert len(parts) == -(-1024 * 256 * 48 * 4 // strips.STRIP_BYTES)
    assert [parts[0][0], *(bottom for _, bottom in parts)] == [*(top for top, _ in parts), 1024]
