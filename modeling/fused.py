"""Convolutions of a prepared model with what follows them in the same kernel.

    conv ─▶ + bias ─▶ (+ shortcut) ─▶ ReLU              one call of oneDNN on a CPU, of cuDNN on one of NVIDIA's GPUs
    FPN's 1×1 conv ─▶ + level above, twice as large     one call of oneDNN; on a GPU the sum is a kernel of our own
    one convolution, an inverted residual, RPN's head   `fused_cpu.py`, `fused_gpu.py`

torch runs each arrow as a kernel of its own, which reads and writes the whole feature map: a third of the time that a
GPU works on a batch, and up to half of a MobileNetV2's layer on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.layers import Conv2d
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from torch import Tensor, nn
from torch.nn import functional as F

from maskserve.modeling import fused_cpu, fused_gpu, gpu_kernels
from maskserve.modeling.mobilenetv2 import InvertedResidual
from maskserve.modeling.own_way import Fused
from maskserve.modeling.winograd_calls import each


def fuse(model: nn.Module) -> None:
    """Changes a prepared model (`maskserve.modeling.fold`) in place, in the precision that its weights have now.

    Its answers stay, to rounding. Whoever traces it sees torch's own operators. Nothing changes where neither library
    is there.
    """
    like = next(model.parameters())
    on_gpu = gpu_kernels.can_run_on(like)
    if not on_gpu and not fused_cpu.takes(like):
        return
    device = fused_gpu if on_gpu else fused_cpu
    for module in model.modules():
        if isinstance(module, Conv2d) and module.norm is None:
            device.fuse_conv(module)
    for module in model.modules():
        kind = FUSED_BLOCKS.get(type(module))
        if kind and all(_is_plain(child) for child in module.children() if child is not None):
            module.__class__ = kind
        if type(module) is FPN and _adds_levels(module, on_gpu):
            module.__class__ = FusedFPN
        if type(module) is InvertedResidual:
            device.fuse_residual(module)
        if not on_gpu:
            fused_cpu.fuse_other(module)


class FusedBottleneck(Fused, BottleneckBlock):
    def fused(self, x: Tensor) -> Tensor:
        out = _active_conv(self.conv2, _active_conv(self.conv1, x))
        return _add_relu_conv(self.conv3, out, x if self.shortcut is None else self.shortcut(x))


class FusedBasicBlock(Fused, BasicBlock):
    def fused(self, x: Tensor) -> Tensor:
        out = _active_conv(self.conv1, x)
        return _add_relu_conv(self.conv2, out, x if self.shortcut is None else self.shortcut(x))


class FusedStem(Fused, BasicStem):
    def fused(self, x: Tensor) -> Tensor:
        return F.max_pool2d(_active_conv(self.conv1, x), kernel_size=3, stride=2, padding=1)


class FusedFPN(Fused, FPN):
    def fused(self, x: Tensor) -> dict[str, Tensor]:
        """See Detectron2's."""
        levels: list[Tensor] = []
        below = self.bottom_up(x)
        for name, lateral in zip(reversed(self.in_features), self.lateral_convs, strict=True):
            levels.append(_add_level(lateral, below[name], levels[-1]) if levels else lateral(below[name]))
        return from_levels(self, levels, below)


def from_levels(fpn: FPN, levels: Sequence[Tensor], below: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An FPN's features, of what its last convolutions read, in their order, and of its bottom-up network's."""
    outputs = each(fpn.output_convs, levels)[::-1]
    if fpn.top_block is not None:
        named = {**dict(zip(fpn._out_features, outputs, strict=False)), **below}
        outputs += fpn.top_block(named[fpn.top_block.in_feature])
    return dict(zip(fpn._out_features, outputs, strict=True))


FUSED_BLOCKS: dict[type[nn.Module], type[nn.Module]] = {
    BottleneckBlock: FusedBottleneck,
    BasicBlock: FusedBasicBlock,
    BasicStem: FusedStem,
}
PLAIN = (Conv2d, fused_cpu.PackedConv, fused_gpu.Pointwise, fused_gpu.BiasedConv)
"""Convolutions of which a library does all."""


def _adds_levels(fpn: Any, on_gpu: bool) -> bool:
    takes = fused_gpu.takes_sums(fpn.lateral_convs[0]) if on_gpu else all(map(_is_plain, fpn.lateral_convs))
    return fpn._fuse_type == "sum" and takes


def _is_plain(conv: nn.Module) -> bool:
    return type(conv) in PLAIN and conv.norm is None and conv.activation is None


def _active_conv(conv: Conv2d, x: Tensor) -> Tensor:
    return (fused_gpu if x.is_cuda else fused_cpu).active_conv(conv, x)


def _add_relu_conv(conv: Conv2d, x: Tensor, other: Tensor) -> Tensor:
    if x.is_cuda:
        return fused_gpu.add_relu_conv(conv, x, other)
    return fused_cpu.add_conv(conv, x, other, "relu")


def _add_level(lateral: Conv2d, below: Tensor, above: Tensor) -> Tensor:
    if gpu_kernels.can_run_on(below):
        return gpu_kernels.add_doubled(lateral(below), above)
    return fused_cpu.add_conv(lateral, below, F.interpolate(above, scale_factor=2.0, mode="nearest"))
