"""Parts of Detectron2's Mask R-CNN that another one replaces while it is trained on a CPU.

    roi_heads.box_pooler, mask_pooler   ROIAlign on all threads, both ways: modeling/roi_align_backward.py
    proposal_generator.rpn_head         its backward where anchors were sampled: training/rpn_head.py
    proposal_generator's proposals      only the best boxes decoded, suppression that stops: modeling/proposals.py
    convolutions with a frozen norm     the norm multiplied into the weights each step
    strided depthwise convolutions      their gradient in float32 where the rest is in bfloat16: training/depthwise.py

Losses and gradients are Detectron2's to rounding; the weights keep their names.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional

from maskserve.modeling.proposals import best_of_levels
from maskserve.modeling.roi_align import can_replace
from maskserve.modeling.roi_align_backward import TrainablePooler
from maskserve.training import depthwise, rpn_head


def quicken(model: Any) -> None:
    """Replace the parts of `model`, a GeneralizedRCNN, for which there is a faster one here; the others stay."""
    for name in ("box_pooler", "mask_pooler"):
        pooler = getattr(model.roi_heads, name)
        if can_replace(pooler):
            setattr(model.roi_heads, name, TrainablePooler(pooler, torch.float32))
    head = model.proposal_generator.rpn_head
    if rpn_head.fits(head):
        # as an attribute, so that the head's own state and names stay as they are
        head.forward = partial(rpn_head.predict, head)
    model.proposal_generator.predict_proposals = partial(_propose, model.proposal_generator)
    for module in model.modules():
        if isinstance(module, Conv2d) and (_is_folded(module) or depthwise.fits(module)):
            module.forward = partial(_convolve, module)


@torch.no_grad()
def _propose(
    rpn: Any, anchors: list[Boxes], logits: list[Tensor], deltas: list[Tensor], sizes: list[tuple[int, int]]
) -> list[Instances]:
    return best_of_levels(rpn, [level.tensor.__getitem__ for level in anchors], logits, deltas, sizes)


def _is_folded(conv: Any) -> bool:
    """Whether its norm is a constant that its weights can take in."""
    return isinstance(conv.norm, FrozenBatchNorm2d) and conv.bias is None


def _convolve(conv: Any, x: Tensor) -> Tensor:
    """The convolution and its frozen norm in one: three passes less over what comes out, one in the backward."""
    folded, weight, bias = _is_folded(conv), conv.weight, conv.bias
    if folded:
        norm = conv.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight, bias = weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
    convolve = depthwise.convolve if depthwise.fits(conv) else functional.conv2d
    x = convolve(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    if conv.norm is not None and not folded:
        x = conv.norm(x)
    return x if conv.activation is None else conv.activation(x)
