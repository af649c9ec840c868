"""A block row by row answers what its three convolutions answer, wherever its seams, panels and tiles end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from maskserve.modeling import compiled, strips
from maskserve.modeling.device import has_vectors
from maskserve.modeling.fold import prepare
from maskserve.modeling.fused import fuse
from maskserve.modeling.fused_cpu import FusedResidual
from maskserve.modeling.mobilenetv2 import InvertedResidual, MobileNetV2
from tests.modeling.test_winograd import apart, needs_bfloat16

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and has_vectors(torch.float32, "AVX512") and compiled.is_there()),
    reason="this CPU lacks AVX512, or numba is not installed",
)
DTYPES = (torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16))
STAGES = ("res1", "res2", "res3", "res4", "res5")
SIZES = ((1, 40, 24), (1, 41, 23), (2, 17, 16), (3, 13, 31), (1, 6, 8))
"""Images, height and width of the answer: of whole tiles of pixels and not."""


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def ready(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Prepared, with biases that count, of weights that the dtype has."""
    torch.manual_seed(0)
    prepare(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.normal_()
    return network.to(dtype)


def random_map(*size: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*size).to(dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("channels", "out_channels", "stride"), [(8, 16, 1), (16, 24, 2), (24, 24, 1), (32, 40, 2), (40, 40, 1), (8, 72, 1)]
)
@torch.inference_mode()
def test_it_answers_what_three_convolutions_answer(
    dtype: torch.dtype, channels: int, out_channels: int, stride: int, threads: int
):
    block = ready(InvertedResidual(channels, out_channels, stride=stride, expansion=6, norm="FrozenBN"), dtype)
    exactly = InvertedResidual(channels, out_channels, stride=stride, expansion=6, norm="FrozenBN")
    prepare(exactly)
    exactly.double().load_state_dict({name: value.double() for name, value in block.state_dict().items()})
    fuse(nn.Sequential(block))
    assert isinstance(block, FusedResidual)
    assert block.rows
    for count, height, width in SIZES:
        x = random_map(count, channels, height * stride - stride // 2, width * stride, dtype=dtype)
        assert block.rows.pays(x.shape) == (height >= 3 * threads)
        kept = x.clone()
        found = block.rows(x)
        assert found.dtype == dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert apart(found, exactly(x.double())) < (1e-6 if dtype == torch.float32 else 5e-3)
        assert torch.equal(x, kept)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width_mult", "output_stride"), [(1.0, 32), (0.35, 32), (1.4, 32), (1.0, 16)])
@pytest.mark.parametrize("size", [(1, 64, 96), (2, 65, 83)])
@torch.inference_mode()
def test_a_network_s_stem_is_its_first_block_s(
    dtype: torch.dtype,
    width_mult: float,
    output_stride: int,
    size: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
):
    """All stages of a MobileNetV2, of sizes that its strides divide and do not; with rows and as three convolutions."""
    stages = STAGES if output_stride == 32 else STAGES[:-1]
    options = {"norm": "FrozenBN", "width_mult": width_mult, "output_stride": output_stride}
    network = ready(MobileNetV2(stages, **options).eval(), dtype)
    exactly = MobileNetV2(stages, **options).eval()
    prepare(exactly)
    exactly.double().load_state_dict({name: value.double() for name, value in network.state_dict().items()})
    fuse(network)
    assert isinstance(network.stem, nn.Identity)
    blocks = [block for stage in STAGES for block in getattr(network, stage)]
    suit = 17 - 3 * (width_mult < 1) - 3 * (output_stride == 16)  # not three of 8 channels, nor three dilated ones
    assert sum(block.rows is not None for block in blocks) == suit
    x = random_map(size[0], 3, *size[1:], dtype=dtype)
    expected = exactly(x.double())
    monkeypatch.setattr(strips, "LARGE_BYTES", 0)
    tolerance = 2e-6 if dtype == torch.float32 else 3e-2
    for _ in range(2):
        for name, found in network(x).items():
            assert apart(found, expected[name]) < tolerance, name
        for block in blocks:
            block.rows = None
