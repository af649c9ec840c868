"""A trained network made ready to answer: norms folded into convolutions, activations in place, channels last.

    conv ─▶ batch norm ─▶ ReLU     ─▶     conv' ─▶ ReLU (in place)

A batch norm that no longer learns is a scale and a shift per channel, and a convolution absorbs both:
W' = W · γ / √(σ² + ε), b' = β + (b − μ) · γ / √(σ² + ε)   (Jacob et al., "Quantization and Training", 2018, eq. 14)
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

FOLDED = (FrozenBatchNorm2d, nn.modules.batchnorm._BatchNorm)


def prepare(model: nn.Module) -> None:
    """Make `model` answer as before, to rounding, but faster; it can no longer be trained. Changes it in place."""
    model.eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and isinstance(getattr(module, "norm", None), FOLDED):
            _fold(module)
        if isinstance(module, nn.ReLU | nn.ReLU6):
            module.inplace = True
    model.to(memory_format=torch.channels_last)


def _fold(conv: nn.Conv2d) -> None:
    """Put the norm of one of Detectron2's convolutions into its weight and bias; in float64, as it is done once."""
    norm: Any = conv.norm
    scale = _or(norm.weight, 1.0, norm).double() * (norm.running_var.double() + norm.eps).rsqrt()
    shift = _or(norm.bias, 0.0, norm).double() - norm.running_mean.double() * scale
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    weight = conv.weight.double() * scale[:, None, None, None]
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
    conv.norm = None  # type: ignore[assignment]


def _or(tensor: Tensor | None, default: float, norm: Any) -> Tensor:
    return torch.full_like(norm.running_mean, default) if tensor is None else tensor
