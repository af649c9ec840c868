"""Convolutions of a prepared model on a CPU, with what follows them in the same call.

    conv ─▶ + bias ─▶ (+ shortcut) ─▶ ReLU, ReLU6      oneDNN, weights in its layout (`packed.py`)
    3×3 conv ─▶ (+ shortcut) ─▶ (ReLU), many channels  fewer multiplications (`winograd.py`)
    an inverted residual                               row by row (`residual.py`), or some rows at a time (`strips.py`)
    fully connected, in float32                        oneDNN instead of MKL
    the RPN's logits and deltas                        one 1×1 conv instead of two, of tiles in the cache

Chosen, and put together to blocks and to an FPN, by `maskserve.modeling.fused`.
"""

from __future__ import annotations

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from torch import Tensor, nn

from maskserve.modeling import residual
from maskserve.modeling.device import has_fast_bfloat16
from maskserve.modeling.mobilenetv2 import InvertedResidual, MobileNetV2
from maskserve.modeling.own_way import Fused, is_relu
from maskserve.modeling.packed import ASKED, PackedWeights
from maskserve.modeling.strips import hidden_rows, strips
from maskserve.modeling.winograd import Call, Winograd, suits
from maskserve.modeling.winograd_calls import convolve, each


def takes(like: Tensor) -> bool:
    """Whether oneDNN calculates where a tensor lies, in its dtype, and torch still has its own way to ask for more."""
    known = like.dtype == torch.float32 or (like.dtype == torch.bfloat16 and has_fast_bfloat16("cpu"))
    asked = ("_convolution_pointwise", "_convolution_pointwise_", "_linear_pointwise", *ASKED)
    there = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in asked)
    return like.device.type == "cpu" and known and there


def fuse_conv(conv: Conv2d) -> None:
    if conv.activation is None or is_relu(conv) or isinstance(conv.activation, nn.ReLU6):
        conv.packed = PackedWeights(conv)
        conv.winograd = Winograd(conv) if suits(conv) else None
        conv.__class__ = ActiveConv if conv.activation else PackedConv


class ActiveConv(Fused, Conv2d):
    """A convolution and its ReLU or ReLU6."""

    def fused(self, x: Tensor) -> Tensor:
        return active_conv(self, x)


class PackedConv(Fused, Conv2d):
    """A convolution without an activation."""

    def fused(self, x: Tensor) -> Tensor:
        return _packed_conv(self, x, "none")


class OneDnnLinear(Fused, nn.Linear):
    """For which torch asks MKL, which on AMD's CPUs takes twice as long as oneDNN."""

    def fused(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


class FusedResidual(Fused, InvertedResidual):
    def fused(self, x: Tensor) -> Tensor:
        if self.rows and self.rows.pays(x.shape):
            return self.rows(x)
        parts = strips(self, x)
        if len(parts) > 1:
            return torch.cat([self._strip(x, *part) for part in parts], 2)
        out = self.depthwise(self.expand(x))
        return add_conv(self.project, out, x) if self.has_shortcut else self.project(out)

    def _strip(self, x: Tensor, top: int, bottom: int) -> Tensor:
        rows = self.project(hidden_rows(self, x, top, bottom))
        return rows.add_(x[:, :, top:bottom]) if self.has_shortcut else rows


class FusedRpnHead(StandardRPNHead):
    """Of two 1×1 convolutions to a few channels, which take as long as reading the map twice, makes one."""

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """See Detectron2's."""
        if torch.jit.is_tracing():  # type: ignore[attr-defined]
            return super().forward(features)
        both = [one.split(self.counts, 1) for one in each([self.conv] * len(features), features, self.both)]
        return [logits for _, logits in both], [deltas for deltas, _ in both]


def fuse_other(module: nn.Module) -> None:
    """What is neither a convolution nor a block of a backbone."""
    if type(module) is nn.Linear and module.weight.dtype == torch.float32:
        module.__class__ = OneDnnLinear
    if type(module) is MobileNetV2:
        _fuse_stem(module)
    if type(module) is StandardRPNHead:
        _fuse_rpn_head(module)


def _fuse_stem(network: MobileNetV2) -> None:
    """The stem becomes what the first block, which has no other, expands with; unless that adds the stem's answer."""
    first = network.res1[0]
    if isinstance(first.expand, nn.Identity) and not first.has_shortcut:
        first.expand, network.stem = network.stem, nn.Identity()


def fuse_residual(block: InvertedResidual) -> None:
    if type(block.project) is PackedConv:
        block.rows = residual.Rows(block) if residual.suits(block) else None
        block.__class__ = FusedResidual


def _fuse_rpn_head(head: StandardRPNHead) -> None:
    last = (head.anchor_deltas, head.objectness_logits)
    head.counts = [conv.out_channels for conv in last]
    both = Conv2d(last[0].in_channels, sum(head.counts), kernel_size=1)
    both.weight = nn.Parameter(torch.cat([conv.weight for conv in last]), requires_grad=False)
    both.bias = nn.Parameter(torch.cat([conv.bias for conv in last]), requires_grad=False)
    fuse_conv(both)
    head.both, head.__class__ = both, FusedRpnHead


def active_conv(conv: Conv2d, x: Tensor) -> Tensor:
    """With a ReLU6 if it has one, else with a ReLU."""
    if isinstance(conv.activation, nn.ReLU6):
        return _packed_conv(conv, x, "hardtanh", 0.0, 6.0)
    return _packed_conv(conv, x, "relu")


def add_conv(conv: Conv2d, x: Tensor, other: Tensor, active: str | None = None) -> Tensor:
    """In the memory of `other`: a block's own input is read by nobody after it, for a stage gives its last
    block's output to the FPN, and what follows that has no shortcut or a convolution in it."""
    if conv.winograd and conv.winograd.pays(x.shape):
        return convolve([Call(conv.winograd, x, active == "relu", onto=other)])[0]
    return torch.ops.mkldnn._convolution_pointwise_.binary(
        *(other, x, conv.packed(x.shape), conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups),
        *("add", 1.0, active, [], ""),
    )


def _packed_conv(conv: Conv2d, x: Tensor, active: str, *limits: float) -> Tensor:
    if conv.winograd and conv.winograd.pays(x.shape):
        return convolve([Call(conv.winograd, x, active == "relu")])[0]
    return torch.ops.mkldnn._convolution_pointwise(
        *(x, conv.packed(x.shape), conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups),
        *(active, limits, ""),
    )
