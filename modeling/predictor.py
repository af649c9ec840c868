"""A batch of RGB photos in, instances in original pixels out: the one predictor of worker, evaluation and CLI.

    images ─▶ resize (shortest edge) ─▶ normalise, pad ─▶ trunk ─▶ proposals ─▶ heads ─▶ boxes back to original px
                                                                                       masks stay M×M probabilities

The network is Detectron2's, made ready to answer: norms folded, channels last, ROIAlign on all threads, the trunk in
the precision that is asked for. In float32 the answers are Detectron2's, to rounding.

Masks are pasted later and only where they are wanted (`maskserve.modeling.answer`): a full-frame mask of a
12-megapixel photo costs 12 MB.

Shape shorthand: B images, N instances of one image, M mask resolution (28), H, W px of the original image.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor, nn

from maskserve.modeling import int8_pyramid
from maskserve.modeling.device import Precision, current, has_fast_bfloat16, pick_device
from maskserve.modeling.fold import prepare
from maskserve.modeling.fused import fuse
from maskserve.modeling.heads import prepare_heads
from maskserve.modeling.int8_pyramid import Int8Pyramid
from maskserve.modeling.loading import load_network
from maskserve.modeling.network import settle
from maskserve.modeling.one_pass import NOTHING, OnePass, fits
from maskserve.modeling.openvino_trunk import LEVEL, OpenVinoGraph, OpenVinoTrunk
from maskserve.modeling.pixels import Pixels
from maskserve.modeling.proposals import propose
from maskserve.modeling.recorded import Recorded
from maskserve.modeling.resize import Size
from maskserve.modeling.trunk import TorchTrunk, Trunk
from maskserve.protos.errors import ConfigError

PIXELS_AT_ONCE = 2**25
"""Of a batch on a GPU, 34 photos of 800 × 1216 px; torchvision counts the numbers of a feature map with 31 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Instances of one image, best score first; numpy arrays on the CPU."""

    size: tuple[int, int]
    """(height, width) of the original image, px."""
    boxes_xyxy: np.ndarray
    """float32 (N, 4), original px, inside the image."""
    scores: np.ndarray
    """float32 (N,), 0..1."""
    class_ids: np.ndarray
    """int64 (N,), index into the model's class names."""
    mask_probs: np.ndarray
    """float32 (N, M, M), 0..1, of the box's inside."""


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Wall time of one batch, ms."""

    preprocess_ms: float
    inference_ms: float


class Detections(NamedTuple):
    """What the heads find in one image, best first, on the CPU; float32."""

    boxes: Tensor
    """(N, 4), xyxy in px of the network's input."""
    scores: Tensor
    class_ids: Tensor
    """int64"""
    masks: Tensor
    """(N, M, M), 0..1."""


class Predictor:
    """A Detectron2 Mask R-CNN in evaluation mode.

    Args:
        cfg: the resolved config of the model (`maskserve.modeling.config.load_cfg`).
        class_names: one per class of the model, in order.
        weights: a state dict, or a file of one with Detectron2's names (tensors only).
        device: "cpu", "cuda", "cuda:1", or "auto" (a GPU when there is one).
        precision: "fp32" or "bf16", of convolutions and matrix products. A device that does not calculate in bfloat16
            emulates it: slower, with the same answers. "int8": of the trunk and, on some CPUs, of the box head's fully
            connected layers, on the CPU whatever `device` is; the other heads then calculate in bfloat16 where the CPU
            does, else in float32.
        trunk: trunk.xml of `maskserve.training.quantize`, for "int8".

    Raises:
        ConfigError: the config makes no Mask R-CNN, classes, weights or trunk do not fit it, or int8 lacks its trunk or
            OpenVINO.
    """

    def __init__(
        self,
        cfg: CfgNode,
        class_names: Sequence[str],
        *,
        weights: Path | str | Mapping[str, Tensor],
        device: str = "auto",
        precision: Precision = "fp32",
        trunk: Path | None = None,
    ) -> None:
        self.cfg = _inference_cfg(cfg, "cpu" if precision == "int8" else device)
        self.class_names = tuple(class_names)
        if len(self.class_names) != self.cfg.MODEL.ROI_HEADS.NUM_CLASSES:
            raise ConfigError(
                f"the config has {self.cfg.MODEL.ROI_HEADS.NUM_CLASSES} classes (MODEL.ROI_HEADS.NUM_CLASSES), "
                f"but {len(self.class_names)} class names were given: {', '.join(self.class_names)}"
            )
        self.precision = precision
        model = load_network(self.cfg, weights)
        prepare(model)
        dtype = _dtype(precision)
        # before int8 takes the backbone away
        stride, norms_by_photo = max(1, model.backbone.size_divisibility), _norms_by_photo(model)
        self._device: torch.device = model.device
        self.trunk: Trunk = (
            _int8_trunk(trunk, model, self.cfg, dtype) if precision == "int8" else TorchTrunk(model).to(dtype)
        )
        self.pixels = Pixels(
            self.cfg,
            model.pixel_mean,
            model.pixel_std,
            stride=stride,
            few_sizes=self.trunk.on_openvino and not norms_by_photo,
            dtype=torch.float32 if self.trunk.on_openvino else dtype,
        )
        self._rpn, self._heads = model.proposal_generator, model.roi_heads
        prepare_heads(self._heads, dtype, self._device, self.trunk.scales, int8=precision == "int8")
        fuse(model)
        self._one_pass: OnePass | Recorded | None = None
        if self._device.type == "cuda" and isinstance(self.trunk, TorchTrunk) and fits(self._heads):
            self._one_pass = Recorded(OnePass(self.trunk, self._rpn, self._heads, dtype))

    def __call__(
        self, images: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]] | None = None
    ) -> tuple[list[Prediction], StageTimes]:
        """Segment a batch with one forward.

        Args:
            images: uint8 (H, W, 3) RGB, any sizes.
            sizes: (height, width) of the originals, in whose px the answers are, where images were decoded smaller.

        Returns:
            One prediction per image in the same order (all the model finds above its own lowest threshold,
            `MODEL.ROI_HEADS.SCORE_THRESH_TEST`, at most `TEST.DETECTIONS_PER_IMAGE`), and the batch's times.
        """
        if not images:
            return [], StageTimes(0.0, 0.0)
        sizes = sizes or [_size(image) for image in images]
        start = time.perf_counter()
        with torch.inference_mode(), current(self._device):
            pixels, inner_sizes = self.pixels(images, sizes)
            middle = time.perf_counter()
            found = self._in_one_pass(pixels, inner_sizes) or self._step_by_step(pixels, inner_sizes)
            predictions = [_prediction(*one) for one in zip(found, inner_sizes, sizes, strict=True)]
        end = time.perf_counter()
        return predictions, StageTimes((middle - start) * 1000, (end - middle) * 1000)

    def _step_by_step(self, pixels: Tensor, sizes: list[Size]) -> list[Detections]:
        features, logits, deltas = self.trunk(pixels, self.pixels.filled(sizes))
        proposals = propose(self._rpn, logits, deltas, sizes)
        found, _ = self._heads(None, features, proposals)
        columns = ((one.pred_boxes.tensor, one.scores, one.pred_classes, one.pred_masks[:, 0]) for one in found)
        return [Detections(*(column.cpu() for column in one)) for one in columns]

    def _in_one_pass(self, pixels: Tensor, sizes: list[Size]) -> list[Detections] | None:
        """The same, faster, on a GPU; None where it cannot be done."""
        if self._one_pass is None:
            return None
        most = max(1, PIXELS_AT_ONCE // pixels[0, 0].numel())
        inner = torch.tensor(sizes, dtype=torch.float32, device=self._device)
        parts = zip(pixels.split(most), inner.split(most), strict=True)
        found = [[column.cpu() for column in self._one_pass(*part)] for part in parts]
        *columns, complete = map(torch.cat, zip(*found, strict=True))
        if not complete.all():
            return None
        return [Detections(*(column[one[1] > NOTHING] for column in one)) for one in zip(*columns, strict=True)]

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at which the network sees an image of `size`."""
        return self.pixels.network_size(size)


def _dtype(precision: Precision) -> torch.dtype:
    """Of what torch calculates."""
    if precision == "bf16" or (precision == "int8" and has_fast_bfloat16("cpu")):
        return torch.bfloat16
    return torch.float32


def _int8_trunk(path: Path | None, model: GeneralizedRCNN, cfg: CfgNode, dtype: torch.dtype) -> Trunk:
    if path is None:
        raise ConfigError("precision int8 needs the trunk.xml that `maskserve package --precision int8` makes")
    suits, short_side = int8_pyramid.suits(model), cfg.INPUT.MIN_SIZE_TEST
    if suits and int8_pyramid.goes_without_openvino(model, short_side):
        return int8_pyramid.float_backbone(model, dtype)
    levels = OpenVinoGraph(path, (LEVEL,))
    if suits and int8_pyramid.pays(model, levels.names, short_side):
        return Int8Pyramid(levels, model, dtype)
    model.backbone = None  # or its weights would be prepared, and stay in memory
    return OpenVinoTrunk(path)


def _norms_by_photo(model: GeneralizedRCNN) -> bool:
    """Whether padding changes the whole map: group norm takes its mean and variance of it, too."""
    parts = (model.backbone, model.proposal_generator)
    return any(isinstance(module, nn.GroupNorm) for part in parts for module in part.modules())


def _inference_cfg(cfg: CfgNode, device: str) -> CfgNode:
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise ConfigError(f"INPUT.FORMAT {cfg.INPUT.FORMAT!r}: choose RGB or BGR")
    cfg = cfg.clone()
    cfg.defrost()
    settle(cfg)
    cfg.MODEL.DEVICE = pick_device(device)
    cfg.MODEL.WEIGHTS = ""
    cfg.freeze()
    return cfg


def _size(image: np.ndarray) -> tuple[int, int]:
    return int(image.shape[0]), int(image.shape[1])


def _prediction(found: Detections, inner_size: Size, size: Size) -> Prediction:
    """Boxes scaled from network px to original px and clipped; boxes without an inside are dropped."""
    height, width = size
    scale = torch.tensor([width / inner_size[1], height / inner_size[0]] * 2)
    boxes = torch.minimum((found.boxes * scale).clamp_(min=0), torch.tensor([width, height] * 2))
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return Prediction(
        size=size,
        boxes_xyxy=boxes[keep].numpy(),
        scores=found.scores[keep].numpy(),
        class_ids=found.class_ids[keep].numpy(),
        mask_probs=found.masks[keep].numpy(),
    )
