"""Strided depthwise convolutions whose gradient oneDNN calculates ten times slower in bfloat16 than in float32.

    forward, the weights' gradient    in the precision of the rest
    the input's gradient              in float32: ten times as fast for 96 channels, casts included (torch 2.15)

MobileNetV2 has four of them, one at the start of each stage: without this they take a third of a training step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def fits(conv: nn.Conv2d) -> bool:
    """Whether `convolve` is for it."""
    return conv.groups == conv.in_channels == conv.out_channels > 1 and max(conv.stride) > 1


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, *layout: Any) -> Tensor:
    """`functional.conv2d` on the CPU, its arguments in the same order."""
    if not torch.is_autocast_enabled("cpu"):
        return functional.conv2d(x, weight, bias, *layout)
    dtype = torch.get_autocast_dtype("cpu")
    found: Tensor = _Convolve.apply(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype), *layout)
    return found


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *layout: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.layout, ctx.bias_sizes = layout, None if bias is None else list(bias.shape)
        return functional.conv2d(x, weight, bias, *layout)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x = None
        if ctx.needs_input_grad[0]:
            shaped = torch.empty_like(x, dtype=torch.float32)  # only its shape and its memory format are looked at
            of_x = _backward(ctx, gradient.float(), shaped, weight.float(), (True, False, False))[0].to(x.dtype)
        mask = (False, *ctx.needs_input_grad[1:3])
        _, of_weight, of_bias = _backward(ctx, gradient, x, weight, mask)
        return of_x, of_weight, of_bias, *(None for _ in ctx.layout)


def _backward(ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor, mask: tuple[bool, ...]) -> tuple[Tensor, ...]:
    stride, padding, dilation, groups = ctx.layout
    found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient, x, weight, ctx.bias_sizes, stride, padding, dilation, False, [0, 0], groups, mask
    )
    return found
