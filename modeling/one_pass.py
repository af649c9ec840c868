"""The whole network as one function of fixed shapes, in which Python never waits for an answer: for GPUs.

    pixels ─▶ trunk ─▶ best positions of each level ─▶ suppression ─▶ P proposals ─▶ box head ─▶ C candidates
                                                                            ─▶ suppression ─▶ D boxes ─▶ mask head

Detectron2's code asks at a dozen places how many there are, of each photo on its own, and the GPU idles while Python
reads the answer. Here there are always as many as there can be at most, and those that do not count have the score −∞.
The answers are the same, but for two cases, which are told: more candidates than CANDIDATES, or longer chains of
overlapping boxes than `survivors` follows. The caller then goes the long way.

Shape shorthand: B images, L levels, K classes, k positions of a level, P, C, D as above, M mask resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, StandardROIHeads
from torch import Tensor, nn
from torch.nn import functional as F

from maskserve.modeling import atlas, gpu_kernels
from maskserve.modeling.proposals import best_of_each, flat_levels
from maskserve.modeling.survivors import survivors
from maskserve.modeling.trunk import TorchTrunk

CANDIDATES = 2048
"""Boxes of a photo, of all classes, that score above the model's own threshold; a trained model has 50 to 150."""
NOTHING = -torch.inf
Pyramid = atlas.Atlas | list[Tensor]
"""As it is where `gpu_kernels` reads it, else on one sheet."""


class Found(NamedTuple):
    boxes: Tensor
    """float32 (B, D, 4), xyxy in px of the network's input, best first."""
    scores: Tensor
    """float32 (B, D); −∞ where there is no instance."""
    class_ids: Tensor
    """int64 (B, D)."""
    masks: Tensor
    """float32 (B, D, M, M), 0..1."""
    complete: Tensor
    """bool (B,): whether this is the answer."""


def fits(heads: StandardROIHeads) -> bool:
    """Whether `OnePass` knows these heads (prepared: `maskserve.modeling.heads`)."""
    poolers = [heads.box_pooler.pooler, heads.mask_pooler.pooler]
    same = heads.box_in_features == heads.mask_in_features
    return same and atlas.can_pool(*poolers) and isinstance(heads.box_predictor, FastRCNNOutputLayers)


class OnePass(nn.Module):
    """float32 (B, 3, H, W) as of `Trunk`, and float32 (B, 2), the images' (height, width) in it ─▶ Found.

    Args:
        trunk, rpn, heads: of a prepared model.
        dtype: of the heads' convolutions and matrix products.
    """

    def __init__(self, trunk: TorchTrunk, rpn: RPN, heads: StandardROIHeads, dtype: torch.dtype) -> None:
        super().__init__()
        self.trunk, self.rpn, self.heads, self._dtype = trunk, rpn, heads, dtype
        self._box_pooler, self._mask_pooler = heads.box_pooler.pooler, heads.mask_pooler.pooler

    def forward(self, pixels: Tensor, sizes: Tensor) -> Found:
        features, logits, deltas = self.trunk(pixels)
        limits = sizes.flip(1).repeat(1, 2)[:, None]  # width, height, width, height
        levels = [features[name] for name in self.heads.box_in_features]
        sheet: Pyramid = levels if gpu_kernels.can_pool(levels) else atlas.draw(levels)
        proposals, usable, complete = self._propose(logits, deltas, limits)
        boxes, scores, class_ids, settled = self._detect(sheet, proposals, usable, limits)
        masks = self._masks(sheet, boxes, class_ids)
        return Found(boxes, scores, class_ids, masks, complete & settled)

    def _propose(self, logits: Sequence[Tensor], deltas: Sequence[Tensor], limits: Tensor) -> tuple[Tensor, ...]:
        """Boxes (B, P, 4), whether each is one (B, P), whether these are right (B,)."""
        level_scores, level_boxes = best_of_each(self.rpn, *flat_levels(self.rpn, logits, deltas))
        most = max(one.shape[1] for one in level_scores)
        scores = torch.stack([F.pad(one, (0, most - one.shape[1]), value=NOTHING) for one in level_scores], 1)
        boxes = torch.stack([F.pad(one, (0, 0, 0, most - one.shape[1])) for one in level_boxes], 1)
        usable = boxes.isfinite().all(-1) & scores.isfinite()
        boxes = _inside(boxes, usable, limits[:, None])
        usable &= (boxes[..., 2:] - boxes[..., :2] > self.rpn.min_box_size).all(-1)
        kept, settled = survivors(boxes.flatten(0, 1), usable.flatten(0, 1), self.rpn.nms_thresh)
        scores = scores.masked_fill(~kept.view_as(usable), NOTHING).flatten(1)
        scores, boxes = _best(scores, self.rpn.post_nms_topk[False], boxes.flatten(1, 2))
        return boxes, scores > NOTHING, settled.view(len(scores), -1).all(1)

    def _detect(self, sheet: Pyramid, proposals: Tensor, usable: Tensor, limits: Tensor) -> tuple[Tensor, ...]:
        """Boxes (B, D, 4), scores (B, D), classes (B, D), whether these are right (B,)."""
        predictor, count = self.heads.box_predictor, len(proposals)
        logits, deltas = predictor(self.heads.box_head(self._pooled(sheet, proposals, self._box_pooler)))
        scores = logits.softmax(-1)
        boxes = predictor.box2box_transform.apply_deltas(deltas, proposals.reshape(-1, 4))
        finite = boxes.isfinite().all(1) & scores.isfinite().all(1) & usable.flatten()
        scores = scores[:, :-1]
        classes = scores.shape[1]
        boxes = boxes.view(len(scores), -1, 4).expand(-1, classes, -1)
        boxes = _inside(boxes.unflatten(0, (count, -1)), finite.view(count, -1, 1), limits[:, None]).flatten(1, 2)
        scores = scores.masked_fill(~finite[:, None] | (scores <= predictor.test_score_thresh), NOTHING)
        scores = scores.reshape(count, -1)
        few = (scores > NOTHING).sum(1) <= CANDIDATES
        class_ids = torch.arange(scores.shape[1], device=scores.device).remainder(classes).expand_as(scores)
        scores, boxes, class_ids = _best(scores, CANDIDATES, boxes, class_ids)
        kept, settled = survivors(boxes, scores > NOTHING, predictor.test_nms_thresh, class_ids)
        scores = scores.masked_fill(~kept, NOTHING)
        most = predictor.test_topk_per_image
        scores, boxes, class_ids = _best(scores, most if most >= 0 else CANDIDATES, boxes, class_ids)
        return boxes, scores, class_ids, few & settled

    def _masks(self, sheet: Pyramid, boxes: Tensor, class_ids: Tensor) -> Tensor:
        logits = self.heads.mask_head.layers(self._pooled(sheet, boxes, self._mask_pooler))
        own = class_ids.flatten() if logits.shape[1] > 1 else torch.zeros_like(class_ids).flatten()
        chosen = logits[torch.arange(len(own), device=own.device), own]
        return chosen.sigmoid().unflatten(0, class_ids.shape)

    def _pooled(self, sheet: Pyramid, boxes: Tensor, pooler: nn.Module) -> Tensor:
        if isinstance(sheet, atlas.Atlas):
            pooled = atlas.pool(sheet, boxes, pooler)
        else:
            pooled = gpu_kernels.pool(sheet, boxes, pooler)
        return pooled.to(self._dtype, memory_format=torch.channels_last)


def _inside(boxes: Tensor, finite: Tensor, limits: Tensor) -> Tensor:
    """The boxes clipped to their images; those with infinite numbers become empty ones."""
    return torch.minimum(boxes.masked_fill(~finite[..., None], 0).clamp(min=0), limits)


def _best(scores: Tensor, most: int, *others: Tensor) -> tuple[Tensor, ...]:
    """The `most` best of each image, best first: scores (B, N) and what belongs to them, (B, N, …).

    Of equal ones the first, as torchvision's suppression has it.
    """
    scores, places = (one[:, :most] for one in scores.sort(dim=1, descending=True, stable=True))
    picked = [one.gather(1, places if one.dim() == 2 else places[..., None].expand(-1, -1, 4)) for one in others]
    return scores, *picked
