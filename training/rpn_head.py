"""The RPN's head with a backward that looks only where a gradient is.

    features ─▶ 3×3 convolution, ReLU ─▶ 1×1: objectness, 1×1: box deltas      everywhere, as in Detectron2
    gradient ─▶ the positions whose anchors were sampled ─▶ their 3×3 patches ─▶ two matrix products

The RPN's losses look at RPN.BATCH_SIZE_PER_IMAGE anchors of a photo, 64 to 256 among tens of thousands: everywhere else
the head's gradient is zero, and a convolution's backward, twice its forward, multiplies zeros. What comes out differs
from it by rounding alone.

Shape shorthand: B photos, C channels in, D hidden, A anchors a position, H × W px of a level, M positions.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from torch import Tensor, nn
from torch.nn import functional

MOST_POSITIONS = 4096
"""Taken at a time: their patches are 9 · C numbers each."""


def fits(head: nn.Module) -> bool:
    """Whether `predict` calculates what `head` does: one 3×3 convolution with bias and ReLU, no norm."""
    conv: Any = getattr(head, "conv", None)
    return (
        type(head) is StandardRPNHead
        and type(conv) is Conv2d
        and (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and (conv.groups, conv.norm, type(conv.activation)) == (1, None, nn.ReLU)
        and conv.bias is not None
    )


def predict(head: StandardRPNHead, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The head's forward: (B, C, H, W) of each level ─▶ [(B, A, H, W)] objectness, [(B, 4·A, H, W)] deltas."""
    layers = (head.conv, head.objectness_logits, head.anchor_deltas)
    parameters = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    found = _Head.apply(*parameters, *features)
    return list(found[::2]), list(found[1::2])


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        weight, bias, score_weight, score_bias, delta_weight, delta_bias, *features = inputs
        found: list[Tensor] = []
        hidden: list[Tensor] = []
        for feature in features:
            hidden.append(functional.conv2d(feature, weight, bias, padding=1).relu_())
            found.append(functional.conv2d(hidden[-1], score_weight, score_bias))
            found.append(functional.conv2d(hidden[-1], delta_weight, delta_bias))
        ctx.save_for_backward(weight, score_weight, delta_weight, *features, *hidden)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        weight, score_weight, delta_weight, *saved = ctx.saved_tensors
        features, hidden = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        kernel = weight.permute(0, 2, 3, 1).flatten(1)  # (D, 9·C)
        predictors = torch.cat([score_weight, delta_weight]).flatten(1)  # (5·A, D)
        sums = [torch.zeros_like(kernel), torch.zeros(len(kernel))]
        sums += [torch.zeros_like(predictors), torch.zeros(len(predictors))]
        to_features = []
        for level, (feature, inside) in enumerate(zip(features, hidden, strict=True)):
            coming = torch.cat(gradients[2 * level : 2 * level + 2], 1)
            to_features.append(_level(feature, inside, coming, kernel, predictors, sums))
        of_kernel, of_bias, of_predictors, of_predictor_biases = sums
        split = [len(score_weight), len(delta_weight)]
        return (
            of_kernel.unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2),
            of_bias,
            *(
                part
                for weights, biases in zip(of_predictors.split(split), of_predictor_biases.split(split), strict=True)
                for part in (weights[:, :, None, None], biases)
            ),
            *to_features,
        )


def _level(
    feature: Tensor, hidden: Tensor, coming: Tensor, kernel: Tensor, predictors: Tensor, sums: list[Tensor]
) -> Tensor:
    """The gradient (B, C, H, W) for a level's feature; what the weights get of it is added to `sums`.

    Args:
        coming: the gradient of both predictions, (B, 5·A, H, W).
        kernel: of the 3×3 convolution, (D, 9·C).
        predictors: the 1×1 convolutions, (5·A, D).
        sums: for kernel, its bias, predictors and their biases.
    """
    pixels, inside, outgoing = (_rows(tensor) for tensor in (feature, hidden, coming))
    result = torch.zeros(pixels.shape)
    for positions in outgoing.ne(0).any(1).nonzero()[:, 0].split(MOST_POSITIONS):
        outer, middle = outgoing[positions].float(), inside[positions].float()
        inner = (outer @ predictors) * (middle > 0)
        places, within = _neighbours(positions, *feature.shape[2:])
        patches = pixels[places].float() * within[:, None]
        for total, part in zip(
            sums,
            (inner.t() @ patches.view(len(positions), kernel.shape[1]), inner.sum(0), outer.t() @ middle, outer.sum(0)),
            strict=True,
        ):
            total += part
        result.index_add_(0, places, (inner @ kernel).view(len(places), feature.shape[1]) * within[:, None])
    batch, channels, height, width = feature.shape
    return result.view(batch, height, width, channels).permute(0, 3, 1, 2).to(feature.dtype)


def _rows(tensor: Tensor) -> Tensor:
    """(B, C, H, W) ─▶ (B·H·W, C), without a copy where channels are last."""
    return tensor.permute(0, 2, 3, 1).reshape(-1, tensor.shape[1])


def _neighbours(positions: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows of the 3×3 px around each position, (M·9,), and 1.0 where they are inside of the level, (M·9,)."""
    reach = torch.arange(-1, 2)
    row = (positions // width % height)[:, None] + reach
    column = (positions % width)[:, None] + reach
    inside_rows, inside_columns = (row >= 0) & (row < height), (column >= 0) & (column < width)
    first = (positions // (height * width) * height)[:, None]
    rows = (first + row.clamp(0, height - 1))[:, :, None] * width + column.clamp(0, width - 1)[:, None]
    return rows.flatten(), (inside_rows[:, :, None] & inside_columns[:, None]).flatten().float()
