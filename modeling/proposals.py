"""The RPN's answers at every position ─▶ the best boxes of each image.

    logits ─▶ the best k of each level ─▶ their boxes only ─▶ clipped ─▶ suppression within each level ─▶ the best n

The same proposals as Detectron2's RPN, which decodes the boxes of all positions before it looks which of them are good
(`RPN._decode_proposals`, `find_top_rpn_proposals`).

Shape shorthand: B images, A anchors a position, h, w px of a level, k boxes kept of a level, N proposals of one image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances
from torch import Tensor

from maskserve.modeling import compiled
from maskserve.modeling.device import as_numpy
from maskserve.modeling.suppression import suppress

Anchors = Callable[[Tensor], Tensor]
"""Places in a flat level, int64 (k,) ─▶ the anchors there, float32 (k, 4), xyxy in px of the network's input."""


def propose(
    rpn: RPN, logits: Sequence[Tensor], deltas: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
) -> list[Instances]:
    """The proposals of each image, best first: `proposal_boxes` (N, 4) in px of the network's input, float32.

    Args:
        rpn: for its anchors and limits.
        logits, deltas: of each level, see `maskserve.modeling.trunk.TrunkOutput`.
        sizes: (height, width) of each image without its padding.
    """
    if logits[0].device.type != "cpu" or not compiled.is_there():
        return best_of_levels(rpn, *flat_levels(rpn, logits, deltas), sizes)
    return [
        _of_image(rpn, [one[place] for one in logits], [one[place] for one in deltas], size)
        for place, size in enumerate(sizes)
    ]


def _of_image(rpn: RPN, logits: Sequence[Tensor], deltas: Sequence[Tensor], size: tuple[int, int]) -> Instances:
    """In one kernel for each level, where torch calls a hundred operators: two thirds of the time.

    Args:
        logits, deltas: of each level, (A, h, w) and (4 A, h, w), on the CPU.
    """
    generator, transform = rpn.anchor_generator, rpn.box2box_transform
    limits = (transform.weights, transform.scale_clamp, size, float(rpn.min_box_size))
    found = []
    for level, (cell, stride) in enumerate(zip(generator.cell_anchors, generator.strides, strict=True)):
        own = logits[level].permute(1, 2, 0).flatten().float().numpy()
        places = _best_places(own, rpn.pre_nms_topk[False])
        boxes, usable = np.empty((len(places), 4), np.float32), np.empty(len(places), bool)
        grid = (cell.numpy(), (float(stride), float(generator.offset)))
        at = (places, as_numpy(deltas[level].permute(1, 2, 0)), *grid)
        compiled.kernels().boxes_at(*at, *limits, boxes, usable)
        usable &= np.isfinite(own[places])
        found.append((own[places[usable]], boxes[usable], np.full(usable.sum(), level)))
    scores, corners, levels = (torch.from_numpy(np.concatenate(column)) for column in zip(*found, strict=True))
    best = suppress(corners, scores, levels, rpn.nms_thresh, rpn.post_nms_topk[False])
    return Instances(size, proposal_boxes=Boxes(corners[best]), objectness_logits=scores[best])


def _best_places(scores: np.ndarray, most: int) -> np.ndarray:
    """Of the `most` best, best first, of equal ones the first."""
    places = np.sort(np.argpartition(scores, -most)[-most:]) if most < len(scores) else np.arange(len(scores))
    return places[np.argsort(-scores[places], kind="stable")]


def flat_levels(
    rpn: RPN, logits: Sequence[Tensor], deltas: Sequence[Tensor]
) -> tuple[list[Anchors], list[Tensor], list[Tensor]]:
    """The anchors of each level, and their logits (B, h · w · A), float32, and deltas (B, h · w · A, 4)."""
    generator = rpn.anchor_generator
    levels = zip(generator.cell_anchors, generator.strides, logits, strict=True)
    anchors: list[Anchors] = [
        partial(_on_grid, cell, stride, generator.offset, one.shape[3]) for cell, stride, one in levels
    ]
    by_anchor = [one.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for one in deltas]
    return anchors, [one.permute(0, 2, 3, 1).flatten(1).float() for one in logits], by_anchor


def _on_grid(cell: Tensor, stride: int, offset: float, width: int, places: Tensor) -> Tensor:
    """Those of Detectron2's DefaultAnchorGenerator, which makes them for every place of a level, 140,000 at 800 px.

    Args:
        cell: (A, 4), around the first place.
        width: of the level, px.
    """
    spot = places // len(cell)
    column, row = spot % width, spot // width
    return cell[places % len(cell)] + (torch.stack([column, row, column, row], 1) + offset) * stride


def best_of_levels(
    rpn: RPN,
    anchors: Sequence[Anchors],
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
) -> list[Instances]:
    """What Detectron2's `RPN.predict_proposals` answers, in training or not, for the same arguments.

    Args:
        anchors, logits, deltas: of each level, (B, h · w · A) and (B, h · w · A, 4).

    Raises:
        FloatingPointError: a number is infinite or NaN in training.
    """
    scores, boxes = best_of_each(rpn, anchors, logits, deltas)
    level_ids = torch.cat([torch.full((one.shape[1],), level, device=one.device) for level, one in enumerate(scores)])
    images = zip(torch.cat(scores, 1), torch.cat(boxes, 1), sizes, strict=True)
    return [_kept(rpn, *image, level_ids) for image in images]


def best_of_each(
    rpn: RPN, anchors: Sequence[Anchors], logits: Sequence[Tensor], deltas: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Scores (B, k) and boxes (B, k, 4) of each level's best positions, best first, float32."""
    scores, picked, around = [], [], []
    for own_anchors, own_logits, own_deltas in zip(anchors, logits, deltas, strict=True):
        best, chosen = _best(own_logits.float(), min(own_logits.shape[1], rpn.pre_nms_topk[rpn.training]))
        scores.append(best)
        picked.append(own_deltas.gather(1, chosen[:, :, None].expand(-1, -1, 4)).float())
        around.append(own_anchors(chosen.flatten()).view_as(picked[-1]))
    # of all levels at once: on a CPU, calling its twenty operators is what takes the time
    boxes = rpn.box2box_transform.apply_deltas(torch.cat(picked, 1).flatten(0, 1), torch.cat(around, 1).flatten(0, 1))
    counts = [one.shape[1] for one in scores]
    return scores, list(boxes.view(len(scores[0]), -1, 4).split(counts, 1))


def _best(scores: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The `most` best of each row and their places, best first; on a CPU numpy finds them three times as fast."""
    if scores.device.type != "cpu" or most == scores.shape[1]:
        return scores.topk(most, dim=1)
    places = torch.from_numpy(np.stack([_best_places(one, most) for one in scores.detach().numpy()]))
    return scores.gather(1, places), places


def _kept(rpn: RPN, scores: Tensor, boxes: Tensor, size: tuple[int, int], level_ids: Tensor) -> Instances:
    height, width = size
    finite = torch.isfinite(boxes).all(1) & torch.isfinite(scores)
    if rpn.training and not finite.all():
        raise FloatingPointError("the RPN's boxes or scores are infinite or NaN")
    boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
    sides = boxes[:, 2:] - boxes[:, :2]
    usable = finite & (sides > rpn.min_box_size).all(1)
    if not usable.all():
        boxes, scores, level_ids = boxes[usable], scores[usable], level_ids[usable]
    best = suppress(boxes, scores, level_ids, rpn.nms_thresh, rpn.post_nms_topk[rpn.training])
    return Instances(size, proposal_boxes=Boxes(boxes[best]), objectness_logits=scores[best])
