"""Convolutions of a prepared model on one of NVIDIA's GPUs, with what follows them in the same kernel.

    conv ─▶ + bias ─▶ (+ shortcut) ─▶ ReLU                    cuDNN
    conv ─▶ + bias ─▶ (ReLU6)                                 cuDNN, and one kernel of our own
    1×1 conv ─▶ + bias, in bfloat16                           one matrix product
    1×1 conv ─▶ ReLU6 ─▶ depthwise conv ─▶ + bias ─▶ ReLU6    the product, and one kernel of our own

Chosen, and put together to blocks and to an FPN, by `maskserve.modeling.fused`.
"""

from __future__ import annotations

import math

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.nn import functional as F

from maskserve.modeling import gpu_kernels
from maskserve.modeling.mobilenetv2 import InvertedResidual
from maskserve.modeling.own_way import Fused, is_relu


def fuse_conv(conv: Conv2d) -> None:
    if conv.bias is None:
        return
    relu = is_relu(conv)
    if conv.groups > 1 and conv.groups == conv.in_channels == conv.out_channels and conv.kernel_size == (3, 3):
        if (relu or isinstance(conv.activation, nn.ReLU6 | None)) and _suits_depthwise(conv):
            conv.register_buffer("taps", conv.weight[:, 0].permute(1, 2, 0).float().contiguous(), persistent=False)
            _take_over(conv, Depthwise, math.inf if relu else 6.0)
    elif relu:
        conv.__class__ = ActiveConv
    elif conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.groups == 1 and _is_bf16(conv):
        # not in float32: torch rounds the inputs of convolutions to TF32, but not those of matrix products
        conv.__class__ = Pointwise
    elif isinstance(conv.activation, nn.ReLU6 | None) and gpu_kernels.takes(*_kind(conv)):
        _take_over(conv, BiasedConv, 6.0)


class ActiveConv(Fused, Conv2d):
    """A convolution and its ReLU."""

    def fused(self, x: Tensor) -> Tensor:
        return active_conv(self, x)


class Pointwise(Fused, Conv2d):
    """A 1×1 convolution, not grouped, as a matrix product, to whose result cuBLAS adds the bias."""

    def fused(self, x: Tensor) -> Tensor:
        out = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        return self.activation(out) if self.activation else out


class BiasedConv(Fused, Conv2d):
    """A convolution, its bias and its ReLU6, if it has one."""

    def fused(self, x: Tensor) -> Tensor:
        out = F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        return gpu_kernels.add_bias(out, self.shift, self.limits)


class Depthwise(Fused, Conv2d):
    """A depthwise 3×3 convolution and its ReLU or ReLU6, if it has one."""

    cut_inputs = False

    def fused(self, x: Tensor) -> Tensor:
        return gpu_kernels.depthwise(
            x,
            self.taps,
            self.shift,
            stride=self.stride[0],
            dilation=self.dilation[0],
            limits=self.limits,
            cut_inputs=self.cut_inputs,
        )


def fuse_residual(block: InvertedResidual) -> None:
    """Leave the ReLU6 of the convolution before to the depthwise one, which reads it anyway."""
    expand, depthwise = block.expand, block.depthwise
    known = isinstance(depthwise, Depthwise) and depthwise.limits == (0.0, 6.0)
    if known and isinstance(expand, Conv2d) and isinstance(expand.activation, nn.ReLU6):
        expand.activation = None
        depthwise.cut_inputs = True


def active_conv(conv: Conv2d, x: Tensor) -> Tensor:
    """With a ReLU."""
    return torch.cudnn_convolution_relu(
        x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
    )


def add_relu_conv(conv: Conv2d, x: Tensor, other: Tensor) -> Tensor:
    """With `other` added, and a ReLU."""
    return torch.cudnn_convolution_add_relu(
        x, conv.weight, other, 1.0, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
    )


def takes_sums(conv: Conv2d) -> bool:
    """Whether `gpu_kernels` adds to what it answers."""
    return gpu_kernels.takes(*_kind(conv))


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
