"""Convolutions of a prepared model with what follows them in the same kernel.

    conv ─▶ + bias ─▶ (+ shortcut) ─▶ ReLU    one call of oneDNN on a CPU, of cuDNN on one of NVIDIA's GPUs

    on a CPU    conv ─▶ ReLU6                                             oneDNN, weights in its layout (`packed.py`)
                3×3 conv ─▶ (ReLU), many channels                         fewer multiplications (`winograd.py`)
                FPN's 1×1 conv ─▶ + level above, twice as large           oneDNN
                inverted residuals with large hidden maps                 some rows after the others (`strips.py`)
                fully connected, in float32                               oneDNN instead of MKL
                the RPN's logits and deltas                               one 1×1 conv instead of two, of tiles in cache
    on a GPU    conv ─▶ + bias ─▶ (ReLU6)                                 cuDNN, and one kernel of our own
                1×1 conv ─▶ + bias, in bfloat16                           one matrix product
                1×1 conv ─▶ ReLU6 ─▶ depthwise conv ─▶ + bias ─▶ ReLU6    the product, and one kernel of our own
                FPN: twice as large ─▶ + level below                      one kernel of our own

torch runs each arrow as a kernel of its own, which reads and writes the whole feature map: a third of the time that a
GPU works on a batch, and up to half of a MobileNetV2's layer on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from torch import Tensor, nn
from torch.nn import functional as F

from maskserve.modeling import gpu_kernels, residual
from maskserve.modeling.device import has_fast_bfloat16
from maskserve.modeling.mobilenetv2 import InvertedResidual, MobileNetV2
from maskserve.modeling.packed import ASKED, PackedWeights
from maskserve.modeling.strips import hidden_rows, strips
from maskserve.modeling.winograd import Call, Winograd, suits
from maskserve.modeling.winograd_calls import convolve, each


def fuse(model: nn.Module) -> None:
    """Changes a prepared model (`maskserve.modeling.fold`) in place, in the precision that its weights have now.

    Its answers stay, to rounding. Whoever traces it sees torch's own operators. Nothing changes where neither library
    is there.
    """
    like = next(model.parameters())
    on_gpu = gpu_kernels.can_run_on(like)
    if not on_gpu and not _onednn_takes(like):
        return
    for module in model.modules():
        if isinstance(module, Conv2d) and module.norm is None:
            (_fuse_on_gpu if on_gpu else _fuse_on_cpu)(module)
        if type(module) is nn.Linear and module.weight.dtype == torch.float32 and not on_gpu:
            module.__class__ = OneDnnLinear
    for module in model.modules():
        kind = FUSED_BLOCKS.get(type(module))
        if kind and all(_is_plain(child) for child in module.children() if child is not None):
            module.__class__ = kind
        if type(module) is FPN and _adds_levels(module, on_gpu):
            module.__class__ = FusedFPN
        if type(module) is MobileNetV2 and not on_gpu:
            _fuse_stem(module)
        if type(module) is InvertedResidual:
            _fuse_residual(module)
        if type(module) is StandardRPNHead and not on_gpu:
            _fuse_rpn_head(module)


class Fused:
    """Before a class of Detectron2's: `fused` in the place of its forward."""

    def forward(self, x: Tensor) -> Any:
        own_way = torch.jit.is_tracing() or not x.numel()  # type: ignore[attr-defined]
        return super().forward(x) if own_way else self.fused(x)  # type: ignore[misc]

    def fused(self, x: Tensor) -> Any:
        raise NotImplementedError


class ActiveConv(Fused, Conv2d):
    """A convolution and its ReLU; on a CPU also its ReLU6."""

    def fused(self, x: Tensor) -> Tensor:
        return _active_conv(self, x)


class PackedConv(Fused, Conv2d):
    """A convolution without an activation, on a CPU."""

    def fused(self, x: Tensor) -> Tensor:
        return _packed_conv(self, x, "none")


class Pointwise(Fused, Conv2d):
    """A 1×1 convolution, not grouped, as a matrix product, to whose result cuBLAS adds the bias."""

    def fused(self, x: Tensor) -> Tensor:
        out = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        return self.activation(out) if self.activation else out


class OneDnnLinear(Fused, nn.Linear):
    """For which torch asks MKL, which on AMD's CPUs takes twice as long as oneDNN."""

    def fused(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


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


class FusedResidual(Fused, InvertedResidual):
    """On a CPU."""

    def fused(self, x: Tensor) -> Tensor:
        if self.rows and self.rows.pays(x.shape):
            return self.rows(x)
        parts = strips(self, x)
        if len(parts) > 1:
            return torch.cat([self._rows(x, *part) for part in parts], 2)
        out = self.depthwise(self.expand(x))
        return _add_conv(self.project, out, x) if self.has_shortcut else self.project(out)

    def _rows(self, x: Tensor, top: int, bottom: int) -> Tensor:
        rows = self.project(hidden_rows(self, x, top, bottom))
        return rows.add_(x[:, :, top:bottom]) if self.has_shortcut else rows


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


class FusedRpnHead(StandardRPNHead):
    """On a CPU, where two 1×1 convolutions to a few channels take as long as reading the map twice."""

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """See Detectron2's."""
        if torch.jit.is_tracing():  # type: ignore[attr-defined]
            return super().forward(features)
        both = [one.split(self.counts, 1) for one in each([self.conv] * len(features), features, self.both)]
        return [logits for _, logits in both], [deltas for deltas, _ in both]


FUSED_BLOCKS: dict[type[nn.Module], type[nn.Module]] = {
    BottleneckBlock: FusedBottleneck,
    BasicBlock: FusedBasicBlock,
    BasicStem: FusedStem,
}


def _onednn_takes(like: Tensor) -> bool:
    """Whether oneDNN calculates where a tensor lies, in its dtype, and torch still has its own way to ask for more."""
    known = like.dtype == torch.float32 or (like.dtype == torch.bfloat16 and has_fast_bfloat16("cpu"))
    asked = ("_convolution_pointwise", "_convolution_pointwise_", "_linear_pointwise", *ASKED)
    there = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in asked)
    return like.device.type == "cpu" and known and there


def _fuse_on_cpu(conv: Conv2d) -> None:
    if conv.activation is None or _is_relu(conv) or isinstance(conv.activation, nn.ReLU6):
        conv.packed = PackedWeights(conv)
        conv.winograd = Winograd(conv) if suits(conv) else None
        conv.__class__ = ActiveConv if conv.activation else PackedConv


def _fuse_on_gpu(conv: Conv2d) -> None:
    if conv.bias is None:
        return
    relu = _is_relu(conv)
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


def _is_relu(conv: Conv2d) -> bool:
    return isinstance(conv.activation, nn.ReLU) or conv.activation is F.relu


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


def _fuse_stem(network: MobileNetV2) -> None:
    """The stem becomes what the first block, which has no other, expands with."""
    first = network.res1[0]
    if isinstance(first.expand, nn.Identity):
        first.expand, network.stem = network.stem, nn.Identity()


def _fuse_residual(block: InvertedResidual) -> None:
    expand, depthwise = block.expand, block.depthwise
    if isinstance(depthwise, Depthwise):
        # leave the ReLU6 of the convolution before to the depthwise one, which reads it anyway
        if isinstance(expand, Conv2d) and isinstance(expand.activation, nn.ReLU6) and depthwise.limits == (0.0, 6.0):
            expand.activation = None
            depthwise.cut_inputs = True
    elif type(block.project) is PackedConv:
        block.rows = residual.Rows(block) if residual.suits(block) else None
        block.__class__ = FusedResidual


def _fuse_rpn_head(head: StandardRPNHead) -> None:
    last = (head.anchor_deltas, head.objectness_logits)
    head.counts = [conv.out_channels for conv in last]
    both = Conv2d(last[0].in_channels, sum(head.counts), kernel_size=1)
    both.weight = nn.Parameter(torch.cat([conv.weight for conv in last]), requires_grad=False)
    both.bias = nn.Parameter(torch.cat([conv.bias for conv in last]), requires_grad=False)
    _fuse_on_cpu(both)
    head.both, head.__class__ = both, FusedRpnHead


def _adds_levels(fpn: Any, on_gpu: bool) -> bool:
    takes = gpu_kernels.takes(*_kind(fpn.lateral_convs[0])) if on_gpu else all(map(_is_plain, fpn.lateral_convs))
    return fpn._fuse_type == "sum" and takes


def _is_plain(conv: nn.Module) -> bool:
    """Whether a library does all of it."""
    return type(conv) in (Conv2d, PackedConv, Pointwise, BiasedConv) and conv.norm is None and conv.activation is None


def _active_conv(conv: Conv2d, x: Tensor) -> Tensor:
    """With a ReLU6 if it has one, else with a ReLU."""
    if x.is_cuda:
        return torch.cudnn_convolution_relu(
            x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
        )
    if isinstance(conv.activation, nn.ReLU6):
        return _packed_conv(conv, x, "hardtanh", 0.0, 6.0)
    return _packed_conv(conv, x, "relu")


def _packed_conv(conv: Conv2d, x: Tensor, active: str, *limits: float) -> Tensor:
    """On a CPU."""
    if conv.winograd and conv.winograd.pays(x.shape):
        return convolve([Call(conv.winograd, x, active == "relu")])[0]
    return torch.ops.mkldnn._convolution_pointwise(
        *(x, conv.packed(x.shape), conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups),
        *(active, limits, ""),
    )


def _add_relu_conv(conv: Conv2d, x: Tensor, other: Tensor) -> Tensor:
    if x.is_cuda:
        return torch.cudnn_convolution_add_relu(
            x, conv.weight, other, 1.0, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
        )
    return _add_conv(conv, x, other, "relu")


def _add_conv(conv: Conv2d, x: Tensor, other: Tensor, active: str | None = None) -> Tensor:
    """On a CPU, in the memory of `other`: a block's own input is read by nobody after it, for a stage gives its last
    block's output to the FPN, and what follows that has no shortcut or a convolution in it."""
    if conv.winograd and conv.winograd.pays(x.shape):
        return convolve([Call(conv.winograd, x, active == "relu", onto=other)])[0]
    return torch.ops.mkldnn._convolution_pointwise_.binary(
        *(other, x, conv.packed(x.shape), conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups),
        *("add", 1.0, active, [], ""),
    )


def _add_level(lateral: Conv2d, below: Tensor, above: Tensor) -> Tensor:
    if gpu_kernels.can_run_on(below):
        return gpu_kernels.add_doubled(lateral(below), above)
    return _add_conv(lateral, below, F.interpolate(above, scale_factor=2.0, mode="nearest"))
