"""3×3 convolutions by Winograd's transforms with products in int8: how close they come, and what they read."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from maskserve.modeling import winograd
from maskserve.modeling.fused import fuse
from maskserve.modeling.trunk import Affine
from maskserve.modeling.winograd_calls import each
from maskserve.modeling.winograd_int8 import Int8Conv, Int8Winograd, conv_suits_int8
from tests.modeling.test_winograd import SIZES, apart, asked, conv_of, exactly, needs_bfloat16, random_map

pytestmark = pytest.mark.skipif(not conv_suits_int8(conv_of()), reason="this CPU has no VNNI, or AMX as well")
ROUNDED = 0.06
"""Of noise, which has no small numbers beside each other; a trained network loses half of it."""


def as_int8(conv: Conv2d, reads: Affine | None = None) -> Int8Winograd:
    return Int8Winograd(conv, reads or Affine())


def test_it_answers_nearly_what_the_convolution_answers():
    conv = conv_of(in_channels=96, out_channels=80)
    fast = as_int8(conv)
    for relu in (False, True):
        for count, *size in SIZES:
            x = random_map(count, 96, *size, torch.float32)
            exact = exactly(conv, x).relu() if relu else exactly(conv, x)
            found = asked(fast, x, relu=relu)
            assert found.dtype == torch.float32
            assert 1e-3 < apart(found, exact) < ROUNDED


@needs_bfloat16
def test_of_weights_that_become_bfloat16_it_rounds_the_exact_ones():
    conv = conv_of()
    fast, x = as_int8(conv), random_map(1, 64, 30, 41, torch.bfloat16)
    exact = exactly(conv, x)
    conv.to(torch.bfloat16)
    found = asked(fast, x)
    assert found.dtype == torch.bfloat16
    assert apart(found, exact) < ROUNDED


def test_small_numbers_keep_their_digits():
    """Left half a thousandth as large: units are each tile's own."""
    conv = conv_of(bias=False)
    x = random_map(1, 64, 40, 80, torch.float32)
    x[..., :40] /= 1000
    exact, found = exactly(conv, x)[..., :36], asked(as_int8(conv), x)[..., :36]
    assert apart(found, exact) < ROUNDED


def test_nothing_stays_nothing():
    conv = conv_of(bias=False)
    assert not asked(as_int8(conv), torch.zeros(1, 64, 20, 20)).any()


def stored(count: int, height: int, width: int, reads: Affine) -> tuple[Tensor, Tensor]:
    """uint8, and what it stands for."""
    x = torch.randint(0, 256, (count, 64, height, width), dtype=torch.uint8)
    x = x.contiguous(memory_format=torch.channels_last)
    return x, reads.values(x)


@pytest.mark.parametrize("size", [(2, 33, 50), (1, 4, 5)], ids=["large", "small"])
def test_it_reads_what_is_stored_in_uint8(size: tuple[int, int, int]):
    """Also around the edges, where nothing is the zero point; small maps go through the convolution itself."""
    reads = Affine(0.02, 77)
    conv = conv_of(activation=nn.ReLU())
    x, values = stored(*size, reads)
    module = Int8Conv(conv, reads)
    assert module.winograd.pays(x.shape) == (size[1] > 4)
    exact = exactly(conv, values).relu()
    assert apart(module(x), exact) < ROUNDED
    assert apart(asked(as_int8(conv, reads), x, relu=True)[..., 0], exact[..., 0]) < ROUNDED


def test_several_maps_at_once_answer_as_one_after_the_other():
    """Of one convolution and of two, large and small, in uint8 and in float."""
    reads = Affine(0.02, 77)
    first, second = Int8Conv(conv_of(activation=nn.ReLU())), Int8Conv(conv_of(), reads)
    maps = [random_map(1, 64, *size, torch.float32) for size in ((61, 47), (30, 41), (3, 5))]
    maps.append(stored(1, 50, 50, reads)[0])
    convs = [first, first, first, second]
    for found, alone in zip(each(convs, maps), [conv(x) for conv, x in zip(convs, maps, strict=True)], strict=True):
        torch.testing.assert_close(found, alone, rtol=0, atol=0)


def test_a_pointwise_convolution_follows():
    conv, then = Int8Conv(conv_of(activation=nn.ReLU())), conv_of(out_channels=15, kernel_size=1, padding=0)
    fuse(nn.Sequential(then))
    maps = [random_map(1, 64, *size, torch.float32) for size in ((61, 47), (3, 5))]
    for x, found in zip(maps, each([conv, conv], maps, then), strict=True):
        torch.testing.assert_close(found, then(conv(x)), rtol=1e-5, atol=1e-5)


def test_of_a_part_of_a_map_nothing_around_it_is_read():
    reads = Affine(0.02, 77)
    conv = conv_of()
    x, values = stored(2, 50, 70, reads)
    part = values[:, :, :41, :58]
    assert apart(asked(as_int8(conv, reads), x[:, :, :41, :58]), exactly(conv, part)) < ROUNDED


def test_what_does_not_suit(monkeypatch: pytest.MonkeyPatch):
    assert not conv_suits_int8(conv_of(stride=2))
    assert not conv_suits_int8(conv_of(norm=nn.GroupNorm(4, 64)))
    assert not conv_suits_int8(conv_of(activation=nn.ReLU6()))
    monkeypatch.setattr(torch, "get_num_threads", lambda: winograd.MOST_THREADS + 1)
    assert not conv_suits_int8(conv_of())


@pytest.mark.parametrize("lacks", ["_is_vnni_supported", "_is_amx_tile_supported"])
def test_other_cpus_do_without(lacks: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cpu, lacks, lambda: lacks == "_is_amx_tile_supported")
    assert not conv_suits_int8(conv_of())
