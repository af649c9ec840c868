"""Convolutions of a prepared model for NVIDIA GPUs, with what follows them in the same kernel.

    conv ─▶ + bias ─▶ (+ shortcut) ─▶ ReLU                    one call of cuDNN
    conv ─▶ + bias ─▶ (ReLU6)                                 cuDNN, and one kernel of our own
    1×1 conv ─▶ + bias, in bfloat16                           one matrix product
    1×1 conv ─▶ ReLU6 ─▶ depthwise conv ─▶ + bias ─▶ ReLU6    the product, and one kernel of our own
    FPN: twice as large ─▶ + level below                      one kernel of our own

torch runs each arrow as a kernel of its own, which reads and writes the whole feature map: a third of the time that a
GPU works on a batch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from torch import Tensor, nn
from torch.nn import functional as F

from maskserve.modeling import gpu_kernels
from maskserve.modeling.mobilenetv2 import InvertedResidual


def fuse(model: nn.Module) -> None:
    """Changes a prepared model (`maskserve.modeling.fold`) in place, in the precision that its weights have now.

    Its answers stay, to rounding. Nothing changes where the GPU is not one of NVIDIA's.
    """
    if not gpu_kernels.can_run_on(next(model.parameters())):
        return
    for module in model.modules():
        if isinstance(module, Conv2d):
            _fuse_conv(module)
    for module in model.modules():
        kind = FUSED_BLOCKS.get(type(module))
        if kind and all(_is_plain(child) for child in module.children() if child is not None):
            module.__class__ = kind
        if type(module) is FPN and _adds_levels(module):
            module.__class__ = FusedFPN
        if isinstance(module, InvertedResidual) and isinstance(module.depthwise, Depthwise):
            _cut_once(module)


class Pointwise(Conv2d):
    """A 1×1 convolution, not grouped, as a matrix product, to whose result cuBLAS adds the bias."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        return self.activation(out) if self.activation else out


class ReluConv(Conv2d):
    """A convolution and its ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return _relu_conv(self, x) if x.numel() else super().forward(x)


class BiasedConv(Conv2d):
    """A convolution, its bias and its ReLU6, if it has one."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        return gpu_kernels.add_bias(out, self.shift, self.limits) if x.numel() else out


class Depthwise(Conv2d):
    """A depthwise 3×3 convolution and its ReLU or ReLU6, if it has one."""

    cut_inputs = False

    def forward(self, x: Tensor) -> Tensor:
        return gpu_kernels.depthwise(
            x,
            self.taps,
            self.shift,
            stride=self.stride[0],
            dilation=self.dilation[0],
            limits=self.limits,
            cut_inputs=self.cut_inputs,
        )


class FusedBottleneck(BottleneckBlock):
    def forward(self, x: Tensor) -> Tensor:
        out = _relu_conv(self.conv2, _relu_conv(self.conv1, x))
        return _add_relu_conv(self.conv3, out, x if self.shortcut is None else self.shortcut(x))


class FusedBasicBlock(BasicBlock):
    def forward(self, x: Tensor) -> Tensor:
        out = _relu_conv(self.conv1, x)
        return _add_relu_conv(self.conv2, out, x if self.shortcut is None else self.shortcut(x))


class FusedStem(BasicStem):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(_relu_conv(self.conv1, x), kernel_size=3, stride=2, padding=1)


class FusedFPN(FPN):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """See Detectron2's."""
        levels: list[Tensor] = []
        below, level = self.bottom_up(x), None
        for name, lateral, output in zip(
            reversed(self.in_features), self.lateral_convs, self.output_convs, strict=True
        ):
            above, level = level, lateral(below[name])
            level = level if above is None else gpu_kernels.add_doubled(level, above)
            levels.insert(0, output(level))
        if self.top_block is not None:
            named = {**dict(zip(self._out_features, levels, strict=False)), **below}
            levels += self.top_block(named[self.top_block.in_feature])
        return dict(zip(self._out_features, levels, strict=True))


FUSED_BLOCKS: dict[type[nn.Module], type[nn.Module]] = {
    BottleneckBlock: FusedBottleneck,
    BasicBlock: FusedBasicBlock,
    BasicStem: FusedStem,
}


def _fuse_conv(conv: Conv2d) -> None:
    if conv.norm is not None or conv.bias is None:
        return
    relu = isinstance(conv.activation, nn.ReLU) or conv.activation is F.relu
    if conv.groups > 1 and conv.groups == conv.in_channels == conv.out_channels and conv.kernel_size == (3, 3):
        if (relu or isinstance(conv.activation, nn.ReLU6 | None)) and _suits_depthwise(conv):
            conv.register_buffer("taps", conv.weight[:, 0].permute(1, 2, 0).float().contiguous(), persistent=False)
            _take_over(conv, Depthwise, math.inf if relu else 6.0)
    elif relu:
        conv.__class__ = ReluConv
    elif conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.groups == 1 and _is_bf16(conv):
        # not in float32: torch rounds the inputs of convolutions to TF32, but not those of matrix products
        conv.__class__ = Pointwise
    elif isinstance(conv.activation, nn.ReLU6 | None) and gpu_kernels.takes(*_kind(conv)):
        _take_over(conv, BiasedConv, 6.0)


def _take_over(conv: Conv2d, kind: type[Conv2d], most: float) -> None:
    """Make it one of `kind`, which adds the bias itself and cuts to 0 … most if there is an activation."""
    conv.register_buffer("shift", conv.bias.float(), persistent=False)
    conv.limits = (0.0, most) if conv.activation else (-math.inf, math.inf)
    conv.__class__ = kind


def _kind(conv: Conv2d) -> tuple[torch.dtype, int]:
    """What `gpu_kernels.takes` asks for."""
    return conv.weight.dtype, conv.out_channels


def _is_bf16(conv: Conv2d) -> bool:
    return bool(conv.weight.dtype == torch.bfloat16)


def _suits_depthwise(conv: Conv2d) -> bool:
    even = conv.stride[0] == conv.stride[1] and conv.dilation[0] == conv.dilation[1]
    known = conv.stride[0] == 1 or (conv.stride[0] == 2 and conv.dilation[0] == 1)
    return even and known and conv.padding == conv.dilation and gpu_kernels.takes(*_kind(conv))


def _cut_once(block: InvertedResidual) -> None:
    """Leave the ReLU6 of the convolution before to the depthwise one, which reads it anyway."""
    expand, depthwise = block.expand, block.depthwise
    if isinstance(expand, Conv2d) and isinstance(expand.activation, nn.ReLU6) and depthwise.limits == (0.0, 6.0):
        expand.activation = None
        depthwise.cut_inputs = True


def _adds_levels(fpn: Any) -> bool:
    return fpn._fuse_type == "sum" and gpu_kernels.takes(*_kind(fpn.lateral_convs[0]))


def _is_plain(conv: nn.Module) -> bool:
    """Whether cuDNN does all of it."""
    return type(conv) in (Conv2d, Pointwise, BiasedConv) and conv.norm is None and conv.activation is None


def _relu_conv(conv: Conv2d, x: Tensor) -> Tensor:
    return torch.cudnn_convolution_relu(
        x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
    )


def _add_relu_conv(conv: Conv2d, x: Tensor, shortcut: Tensor) -> Tensor:
    return torch.cudnn_convolution_add_relu(
        x, conv.weight, shortcut, 1.0, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
    )
