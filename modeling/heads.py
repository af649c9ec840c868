"""Detectron2's box and mask heads, fed channels last and in the trunk's precision; what decides stays in float32.

    features ─▶ pooler ─▶ box head ─▶ float32: class scores, box deltas ─▶ suppression ─▶ pooler ─▶ mask head ─▶ float32

Class scores, boxes and the last layer of the masks cost next to nothing, and bfloat16 has only eight bits for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers, StandardROIHeads
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from maskserve.modeling.int8_linear import Int8Linear, layer_suits_int8
from maskserve.modeling.roi_align import ChannelsLastPooler, can_replace
from maskserve.modeling.suppression import suppress
from maskserve.modeling.trunk import Affine


def prepare_heads(
    heads: StandardROIHeads,
    dtype: torch.dtype,
    device: torch.device,
    scales: Mapping[str, Affine],
    *,
    int8: bool = False,
) -> None:
    """Changes the heads of a prepared model (`maskserve.modeling.fold`) in place; their answers stay, to rounding.

    Args:
        scales: see `maskserve.modeling.trunk.Trunk`.
        int8: whether the box head's fully connected layers are to be, where they suit.
    """
    if isinstance(heads.box_head, FastRCNNConvFCHead) and heads.box_head.fcs:
        _flatten_channels_last(heads.box_head, heads.box_pooler.output_size)
        if int8:
            _round_fully_connected(heads.box_head)
    for name in ("box", "mask"):
        read_as = [scales.get(feature, Affine()) for feature in getattr(heads, f"{name}_in_features")]
        setattr(heads, f"{name}_pooler", _pooler(getattr(heads, f"{name}_pooler"), dtype, device, read_as))
    heads.box_head = nn.Sequential(heads.box_head.to(dtype), ToFloat32())
    if type(heads.box_predictor) is FastRCNNOutputLayers:
        heads.box_predictor.__class__ = BoxPredictor
    last = heads.mask_head.predictor
    heads.mask_head.to(dtype)
    heads.mask_head.predictor = nn.Sequential(ToFloat32(), last.float())


class ToFloat32(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float()


class Float32Pooler(nn.Module):
    """Detectron2's pooler, which knows float32 only, between casts. For GPUs, and where there is no numba."""

    def __init__(self, pooler: ROIPooler, dtype: torch.dtype, read_as: Sequence[Affine]) -> None:
        super().__init__()
        self.pooler, self._dtype, self._read_as = pooler, dtype, read_as

    def forward(self, features: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        values = [affine.values(feature) for feature, affine in zip(features, self._read_as, strict=True)]
        pooled: Tensor = self.pooler(values, box_lists)
        return pooled.to(self._dtype, memory_format=torch.channels_last)


class BoxPredictor(FastRCNNOutputLayers):
    """Detectron2's, but boxes are suppressed as the proposals are, which stops at the last detection that is wanted."""

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """What Detectron2's `fast_rcnn_inference` answers: detections, and which proposals they came from."""
        boxes = self.predict_boxes(predictions, proposals)
        scores = self.predict_probs(predictions, proposals)
        found = [self._detections(*one) for one in zip(boxes, scores, proposals, strict=True)]
        return [detections for detections, _ in found], [origins for _, origins in found]

    def _detections(self, boxes: Tensor, scores: Tensor, proposals: Instances) -> tuple[Instances, Tensor]:
        """Of one image, best first: from boxes (N, 4) or (N, 4 · classes) and scores (N, classes + 1)."""
        finite = boxes.isfinite().all(1) & scores.isfinite().all(1)
        origin, class_id = ((scores[:, :-1] > self.test_score_thresh) & finite[:, None]).nonzero().unbind(1)
        by_class = boxes.unflatten(1, (-1, 4))
        chosen = Boxes(by_class[origin, class_id if by_class.shape[1] > 1 else 0])
        chosen.clip(proposals.image_size)
        score = scores[origin, class_id]
        most = self.test_topk_per_image if self.test_topk_per_image >= 0 else len(score)
        best = suppress(chosen.tensor, score, class_id, self.test_nms_thresh, most)
        detections = Instances(
            proposals.image_size, pred_boxes=chosen[best], scores=score[best], pred_classes=class_id[best]
        )
        return detections, origin[best]


class FlattenChannelsLast(nn.Module):
    """(R, C, S, S), channels last ─▶ (R, S · S · C), the same memory."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def _pooler(
    pooler: ROIPooler, dtype: torch.dtype, device: torch.device, read_as: Sequence[Affine]
) -> ChannelsLastPooler | Float32Pooler:
    if device.type == "cpu" and can_replace(pooler):
        return ChannelsLastPooler(pooler, dtype, read_as)
    return Float32Pooler(pooler, dtype, read_as)


def _flatten_channels_last(head: FastRCNNConvFCHead, cells: tuple[int, int]) -> None:
    """Reorder the first layer's inputs from (C, S, S) to (S, S, C)."""
    first = head.fcs[0]
    weight = first.weight.data.unflatten(1, (-1, *cells)).permute(0, 2, 3, 1).flatten(1)
    first.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    head.flatten = FlattenChannelsLast()


def _round_fully_connected(head: FastRCNNConvFCHead) -> None:
    for name, layer in [*head.named_children()]:
        if layer_suits_int8(layer):
            setattr(head, name, Int8Linear(layer))
            head.fcs.remove(layer)  # or its weights stay in memory
