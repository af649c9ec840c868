"""The trunk's input: every photo in its corner of the batch, normalised, in the model's colour order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode

from maskserve.modeling.pixels import LONG_STRIDE, Pixels, network_size, padded_size
from maskserve.modeling.resize import resize

MEAN, STD = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("sizes", [[(64, 64)], [(1, 1)], [(1, 300)], [(300, 1)], [(90, 120), (120, 90), (64, 128)]])
def test_pixels_are_normalised_in_float32_and_padded_with_zero(
    small_cfg: CfgNode, sizes: list[tuple[int, int]], order: str
):
    cfg = small_cfg.clone()
    cfg.defrost()
    cfg.INPUT.FORMAT = order
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    made = Pixels(cfg, MEAN.view(3, 1, 1), STD.view(3, 1, 1), stride=32, few_sizes=False)
    batch, seen = made(images, sizes)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert all(side % 32 == 0 for side in batch.shape[2:])
    for place, image, size, (height, width) in zip(batch, images, sizes, seen, strict=True):
        assert (height, width) == network_size(size, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        shown = torch.from_numpy(resize(image, (height, width), size).copy())
        expected = ((shown.flip(-1) if order == "BGR" else shown) - MEAN) / STD
        torch.testing.assert_close(place[:, :height, :width], expected.permute(2, 0, 1), rtol=0, atol=0)
        assert not place[:, height:].any()
        assert not place[:, :, width:].any()


def test_pixels_in_bfloat16_are_those_in_float32_rounded(small_cfg: CfgNode):
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    exact, rounded = (
        Pixels(small_cfg, MEAN.view(3, 1, 1), STD.view(3, 1, 1), stride=32, few_sizes=False, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(rounded([image], [(16, 16)])[0], exact([image], [(16, 16)])[0].bfloat16())


def test_what_photos_fill_is_less_than_what_is_padded_for_few_sizes(small_cfg: CfgNode):
    few = Pixels(small_cfg, MEAN.view(3, 1, 1), STD.view(3, 1, 1), stride=32, few_sizes=True)
    images = [np.zeros((90, 120, 3), np.uint8)]
    batch, sizes = few(images, [(90, 120)])
    height, width = few.filled(sizes)
    assert (batch.shape[2], batch.shape[3] % LONG_STRIDE) == (height, 0)
    assert sizes[0][1] <= width < sizes[0][1] + 32
    assert batch.shape[3] >= width


@pytest.mark.parametrize(
    ("sizes", "padded"), [([(10, 200)], (32, 256)), ([(200, 10)], (256, 32)), ([(40, 96), (33, 129)], (64, 256))]
)
def test_the_longer_side_is_padded_in_longer_strides(sizes: list[tuple[int, int]], padded: tuple[int, int]):
    assert padded_size(sizes, 32, 128) == padded
