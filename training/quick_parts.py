"""Parts of Detectron2's Mask R-CNN that another one replaces while it is trained on a CPU.

    roi_heads.box_pooler, mask_pooler    ROIAlign on all threads, forward and backward      modeling/roi_align_backward.py
    proposal_generator.rpn_head          its backward where anchors were sampled            training/rpn_head.py

Losses and gradients are Detectron2's to rounding; the weights keep their names.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

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
