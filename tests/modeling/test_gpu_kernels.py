"""The GPU's own kernels against torch's, torchvision's and Detectron2's: on a GPU if there is one, and on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor
from torch.cuda._utils import _nvrtc_compile
from torch.nn import functional as F
from torchvision.ops import batched_nms

from maskserve.modeling import gpu_kernels
from tests.modeling import cuda_on_cpu


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "cpu":
        cuda_on_cpu.pretend(monkeypatch)
    elif not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU that torch can use")
    return request.param


@pytest.mark.parametrize("stored", gpu_kernels.STORED.values())
@pytest.mark.parametrize("capability", ["75", "80", "90"])
@pytest.mark.filterwarnings("ignore")
def test_nvidias_compiler_takes_them(stored: str, capability: str):
    """Which needs no GPU; a T4, an A100, an H100."""
    try:
        compiled, _ = _nvrtc_compile(gpu_kernels.source(stored), "pool", compute_capability=capability)
    except OSError as error:
        pytest.skip(f"this torch brings no compiler for GPUs: {error}")
    assert compiled


def test_where_they_cannot_be_compiled_torch_does_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    def fail(*_: object) -> None:
        raise RuntimeError("libnvrtc.so is missing")

    monkeypatch.setattr(gpu_kernels, "_kernel", fail)
    gpu_kernels._compile.cache_clear()
    assert not gpu_kernels._compile(torch.device("cuda:7"))
    assert "libnvrtc.so is missing" in caplog.text
    gpu_kernels._compile.cache_clear()


def test_a_kernel_is_made_on_the_gpu_that_asks_for_it(monkeypatch: pytest.MonkeyPatch):
    """Which need not be the current one: TorchServe's second worker is on cuda:1."""
    chosen: list[torch.device] = []

    @contextmanager
    def current(device: torch.device) -> Iterator[None]:
        chosen.append(device)
        yield
        chosen.append(torch.device("cpu"))

    monkeypatch.setattr(gpu_kernels, "current", current)
    monkeypatch.setattr(torch.cuda, "_compile_kernel", lambda _source, name: (name, chosen[-1]))
    for device in (torch.device("cuda:8"), torch.device("cuda:9")):
        assert gpu_kernels._kernel("pool", "float", device) == ("pool", device)


def some_boxes(count: int, within: float = 100.0) -> Tensor:
    """(count, 4), many of which overlap, some of the same place."""
    corners = torch.rand(count, 2).mul(within).round_()
    sides = torch.rand(count, 2).mul(within / 3).round_()
    return torch.cat([corners, (corners + sides).clamp(max=within)], 1)


@pytest.mark.parametrize("count", [1, 31, 33, 300])
def test_the_same_boxes_survive_as_with_torchvision(device: str, count: int):
    torch.manual_seed(count)
    boxes, usable = some_boxes(2 * count).view(2, count, 4), torch.rand(2, count) > 0.2
    classes = torch.randint(0, 3, (2, count))
    kept = gpu_kernels.survivors(boxes.to(device), usable.to(device), 0.5, classes.to(device)).cpu()
    for group in range(2):
        own = usable[group].nonzero()[:, 0]
        ranks = -torch.arange(len(own), dtype=torch.float32)
        theirs = own[batched_nms(boxes[group][own], ranks, classes[group][own], 0.5)]
        assert kept[group].nonzero()[:, 0].tolist() == theirs.sort()[0].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("side", "ratio"), [(7, 0), (14, 2)])
def test_pooling_is_detectron2s(device: str, dtype: torch.dtype, side: int, ratio: int):
    torch.manual_seed(side)
    strides = (4, 8, 16, 32)
    features = [torch.randn(2, 16, 384 // stride, 512 // stride).to(dtype) for stride in strides]
    boxes = torch.cat([some_boxes(40, 384.0), some_boxes(20, 40.0)])
    boxes[:3] = torch.tensor([[0, 0, 512, 384], [5, 5, 5, 5], [0, 0, 224, 224]])
    pooler = ROIPooler(side, [1 / stride for stride in strides], ratio, "ROIAlignV2")
    theirs = pooler([one.float() for one in features], [Boxes(boxes), Boxes(boxes.flip(0))])
    last = [one.to(device, memory_format=torch.channels_last) for one in features]
    ours = gpu_kernels.pool(last, torch.stack([boxes, boxes.flip(0)]).to(device), pooler)
    assert ours.dtype == dtype
    assert ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours.float().cpu(), theirs, atol=1e-4 if dtype == torch.float32 else 2e-2, rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("cut_inputs", [True, False])
def test_depthwise_convolutions_are_torchs(
    device: str, dtype: torch.dtype, stride: int, dilation: int, cut_inputs: bool
):
    torch.manual_seed(stride)
    image, weight, bias = (3 * torch.randn(2, 24, 13, 22)).to(dtype), torch.randn(24, 1, 3, 3), torch.randn(24)
    seen = image.float().clamp(0, 6) if cut_inputs else image.float()
    theirs = F.conv2d(seen, weight, bias, stride, dilation, dilation, groups=24).clamp(0, 6)
    ours = gpu_kernels.depthwise(
        image.to(device, memory_format=torch.channels_last),
        weight[:, 0].permute(1, 2, 0).contiguous().to(device),
        bias.to(device),
        stride=stride,
        dilation=dilation,
        limits=(0.0, 6.0),
        cut_inputs=cut_inputs,
    )
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float().cpu(), theirs, atol=1e-4 if dtype == torch.float32 else 2e-2, rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_torchs(device: str, dtype: torch.dtype):
    torch.manual_seed(1)
    level, above, bias = torch.randn(2, 24, 6, 10).to(dtype), torch.randn(2, 24, 3, 5).to(dtype), torch.randn(24)
    wanted = (level.float() + F.interpolate(above.float(), scale_factor=2, mode="nearest")).to(dtype)
    last = [one.to(device, memory_format=torch.channels_last) for one in (level, above)]
    assert torch.equal(gpu_kernels.add_doubled(*last).cpu(), wanted)
    wanted = (wanted.float() + bias[:, None, None]).clamp(0, 6).to(dtype)
    assert torch.equal(gpu_kernels.add_bias(last[0], bias.to(device), (0.0, 6.0)).cpu(), wanted)


def test_numbers_that_are_none_stay_so(device: str):
    image = torch.full((1, 8, 3, 3), torch.nan, dtype=torch.bfloat16, device=device)
    weights, bias = torch.ones(3, 3, 8, device=device), torch.zeros(8, device=device)
    limits = (-torch.inf, torch.inf)
    ours = gpu_kernels.depthwise(image, weights, bias, stride=1, dilation=1, limits=limits, cut_inputs=False)
    assert ours.isnan().all()
