"""Weights in oneDNN's layouts: the same answers at every size, and no more copies than there are layouts."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import Conv2d
from torch import nn

from maskserve.modeling import packed
from maskserve.modeling.fused import fuse
from maskserve.modeling.fused_cpu import ActiveConv
from maskserve.modeling.packed import PackedWeights

SIZES = ((1, 4, 4), (1, 50, 76), (1, 76, 50), (2, 31, 17), (10, 14, 14))

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.mark.parametrize(("channels", "kernel", "groups"), [(64, 1, 1), (48, 3, 1), (64, 3, 64)])
def test_a_convolution_answers_the_same_at_every_size(channels: int, kernel: int, groups: int):
    torch.manual_seed(0)
    conv = Conv2d(channels, channels, kernel, padding=kernel // 2, groups=groups, activation=nn.ReLU())
    model = nn.Sequential(conv).requires_grad_(False).to(memory_format=torch.channels_last)
    inputs = [torch.randn(count, channels, *size) for count, *size in SIZES]
    inputs = [one.contiguous(memory_format=torch.channels_last) for one in inputs]
    expected = [model(one) for one in inputs]
    fuse(model)
    assert type(conv) is ActiveConv
    for one, wanted in zip(inputs + inputs[::-1], expected + expected[::-1], strict=True):
        torch.testing.assert_close(model(one), wanted, rtol=1e-5, atol=1e-5)


def test_sizes_share_the_weights_of_their_layout(monkeypatch: pytest.MonkeyPatch):
    conv = Conv2d(64, 64, 3, padding=1).requires_grad_(False)
    weights = PackedWeights(conv)
    found = [weights((1, 64, 20, side)) for side in range(20, 30)]
    layouts = {packed.ops.mkldnn._get_mkldnn_serialized_md(one).numpy().tobytes() for one in found}
    assert len({id(one) for one in found}) == len(layouts)
    assert weights((1, 64, 20, 20)) is found[0]

    monkeypatch.setattr(packed, "SIZES_KEPT", len(found))
    weights((1, 64, 20, 99))
    assert len(weights._by_size) == 1
