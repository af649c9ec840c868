"""3×3 convolutions by Winograd's transforms: what they answer, for what, and on whose threads."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from maskserve.modeling import compiled, winograd
from maskserve.modeling.device import has_fast_bfloat16
from maskserve.modeling.fused import fuse
from maskserve.modeling.fused_cpu import ActiveConv, PackedConv
from maskserve.modeling.winograd import Call, Winograd, Work, suits
from maskserve.modeling.winograd_calls import convolve, each

pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512") or not compiled.is_there(),
    reason="this CPU lacks AVX2, or numba is not installed",
)
needs_bfloat16 = pytest.mark.skipif(
    not has_fast_bfloat16("cpu") or torch.cpu._is_amx_tile_supported(), reason="bfloat16 is not calculated so here"
)
SIZES = ((1, 40, 56), (1, 41, 57), (1, 42, 58), (3, 43, 15), (1, 2, 3), (10, 14, 14))


def conv_of(dtype: torch.dtype = torch.float32, **options: object) -> Conv2d:
    torch.manual_seed(0)
    wanted = {"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": 1, **options}
    return Conv2d(**wanted).to(dtype).requires_grad_(False).to(memory_format=torch.channels_last)


def random_map(count: int, channels: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """As a ReLU leaves it."""
    return torch.randn(count, channels, height, width).relu().to(dtype).contiguous(memory_format=torch.channels_last)


def exactly(conv: Conv2d, x: Tensor) -> Tensor:
    bias = None if conv.bias is None else conv.bias.double()
    return nn.functional.conv2d(x.double(), conv.weight.double(), bias, padding=1)


def asked(fast: Winograd, x: Tensor, *, relu: bool = False, onto: Tensor | None = None) -> Tensor:
    (found,) = convolve([Call(fast, x, relu, onto)])
    return found


def apart(found: Tensor, exact: Tensor) -> float:
    """The error, of what is right."""
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 5e-6), pytest.param(torch.bfloat16, 2e-2, marks=needs_bfloat16)]
)
@pytest.mark.parametrize("relu", [False, True])
def test_it_answers_what_the_convolution_answers(dtype: torch.dtype, tolerance: float, relu: bool):
    conv = conv_of(dtype, in_channels=96, out_channels=80)
    fast = Winograd(conv)
    for count, *size in SIZES:
        x = random_map(count, 96, *size, dtype)
        exact = exactly(conv, x).relu() if relu else exactly(conv, x)
        found = asked(fast, x, relu=relu)
        assert found.dtype == dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert apart(found, exact) < tolerance


def test_without_a_bias_and_from_a_map_that_lies_otherwise_in_memory():
    conv = conv_of(bias=False)
    x = torch.randn(2, 64, 20, 33)
    assert apart(asked(Winograd(conv), x), exactly(conv, x)) < 5e-6


@pytest.mark.parametrize("relu", [False, True])
def test_it_adds_to_what_is_there_in_its_memory(relu: bool):
    conv = conv_of()
    x, there = (random_map(2, 64, 21, 34, torch.float32) for _ in range(2))
    wanted = exactly(conv, x) + there
    found = asked(Winograd(conv), x, relu=relu, onto=there)
    assert found.data_ptr() == there.data_ptr()
    assert apart(found, wanted.relu() if relu else wanted) < 5e-6


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 5e-6), pytest.param(torch.bfloat16, 2e-2, marks=needs_bfloat16)]
)
def test_a_pointwise_convolution_follows(dtype: torch.dtype, tolerance: float, relu: bool):
    """Of large maps tile by tile, of small ones as a layer of its own; to 15 channels, as in an RPN."""
    conv = conv_of(dtype, out_channels=80, activation=nn.ReLU() if relu else None)
    then = conv_of(dtype, in_channels=80, out_channels=15, kernel_size=1, padding=0)
    fuse(nn.Sequential(conv, then))
    maps = [random_map(count, 64, *size, dtype) for count, *size in (*SIZES, (1, 97, 120))]
    assert {conv.winograd.pays(x.shape) for x in maps} == {True, False}
    for x, found in zip(maps, each([conv] * len(maps), maps, then), strict=True):
        hidden = exactly(conv, x).relu() if relu else exactly(conv, x)
        wanted = nn.functional.conv2d(hidden, then.weight.double(), then.bias.double())
        assert found.dtype == dtype
        assert apart(found, wanted) < tolerance


def test_of_a_part_of_a_map_nothing_around_it_is_read():
    conv = conv_of()
    whole = torch.full((2, 64, 50, 70), torch.nan).contiguous(memory_format=torch.channels_last)
    part = whole[:, :, :41, :58]
    part[:] = random_map(2, 64, 41, 58, torch.float32)
    assert apart(asked(Winograd(conv), part), exactly(conv, part)) < 5e-6


def test_what_is_no_number_stays_none():
    conv = conv_of()
    x = random_map(1, 64, 20, 20, torch.float32)
    x[0, 3, 9, 9] = torch.nan
    found = asked(Winograd(conv), x, relu=True)
    assert found[0, :, 8:11, 8:11].isnan().all()
    assert found[0, :, :4, :4].isfinite().all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_answers_the_same_and_is_left_as_it_was(threads: int):
    conv, before = conv_of(), torch.get_num_threads()
    x = random_map(1, 64, 61, 47, torch.float32)
    try:
        torch.set_num_threads(threads)
        found = asked(Winograd(conv), x)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert apart(found, exactly(conv, x)) < 5e-6


def test_weights_are_packed_for_one_thread():
    """Each thread calculates alone; on AVX2 weights that are packed for two take it fifteen times as long."""
    fast = Winograd(conv_of())
    asked(fast, random_map(1, 64, 61, 47, torch.float32))
    assert {threads for threads, *_ in fast._packed._by_size} == {1}


def test_the_number_of_threads_is_left_as_it_was_after_an_error(monkeypatch: pytest.MonkeyPatch):
    fast, before = Winograd(conv_of()), torch.get_num_threads()
    monkeypatch.setattr(Winograd, "strip", None)
    with pytest.raises(TypeError, match="not callable"):
        asked(fast, random_map(1, 64, 40, 40, torch.float32))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2},
        {"dilation": 2, "padding": 2},
        {"padding": 0},
        {"groups": 2},
        {"kernel_size": 1, "padding": 0},
        {"in_channels": 48},
        {"out_channels": 72},
        {"padding_mode": "reflect"},
        {"activation": nn.ReLU6()},
    ],
)
def test_other_convolutions_do_not_suit(options: dict[str, object]):
    assert suits(conv_of())
    assert not suits(conv_of(**options))


@pytest.mark.parametrize(("activation", "kind"), [(nn.ReLU(), ActiveConv), (None, PackedConv)])
def test_a_prepared_model_does_it_where_it_pays(
    activation: nn.Module | None, kind: type[Conv2d], monkeypatch: pytest.MonkeyPatch
):
    done: list[torch.Size] = []
    of_class = Winograd.work

    def noted(self: Winograd, call: Call, threads: int) -> Work:
        done.append(call.x.shape)
        return of_class(self, call, threads)

    monkeypatch.setattr(Winograd, "work", noted)
    conv = conv_of(activation=activation)
    fuse(nn.Sequential(conv))
    assert type(conv) is kind
    large, small = random_map(1, 64, 40, 40, torch.float32), random_map(1, 64, 8, 8, torch.float32)
    for x in (large, small):
        exact = exactly(conv, x)
        assert apart(conv(x), exact.relu() if activation else exact) < 5e-6
    assert done == [large.shape]


def test_another_activation_is_not_left_out():
    conv = conv_of(activation=nn.ReLU6())
    fuse(nn.Sequential(conv))
    x = 9 * random_map(1, 64, 40, 40, torch.float32)
    wanted = exactly(conv, x).clamp(0, 6)
    assert wanted.max() == 6
    assert apart(conv(x), wanted) < 5e-6


def test_many_threads_do_without(monkeypatch: pytest.MonkeyPatch):
    fast, size = Winograd(conv_of()), torch.Size((1, 64, 200, 304))
    assert fast.pays(size)
    monkeypatch.setattr(torch, "get_num_threads", lambda: winograd.MOST_THREADS + 1)
    assert not fast.pays(size)
