"""Parts of Detectron2's Mask R-CNN that another one replaces while it is trained on a CPU.

    roi_heads.box_pooler, mask_pooler   ROIAlign on all threads, both ways: modeling/roi_align_backward.py
    proposal_generator.rpn_head         its backward where anchors were sampled: training/rpn_head.py
    convolutions with a frozen norm     the norm multiplied into the weights each step

Losses and gradients are Detectron2's to rounding; the weights keep their names.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor
from torch.nn import functional

from maskserve.modeling.roi_align import can_replace
from maskserve.modeling.roi_align_backward import TrainablePooler
from maskserve.training import rpn_head


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
    for module in model.modules():
        if isinstance(module, Conv2d) and isinstance(module.norm, FrozenBatchNorm2d) and module.bias is None:
            module.forward = partial(_convolve, module)


def _convolve(conv: Any, x: Tensor) -> Tensor:
    """The convolution and its frozen norm in one: three passes less over what comes out, one in the backward."""
    norm = conv.norm
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    weight = conv.weight * scale[:, None, None, None]
    x = functional.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)
    return x if conv.activation is None else conv.activation(x)
