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

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor

from maskserve.modeling.device import Precision, has_fast_bfloat16, pick_device
from maskserve.modeling.fold import prepare
from maskserve.modeling.heads import prepare_heads
from maskserve.modeling.loading import load_network
from maskserve.modeling.openvino_trunk import LONG_STRIDE, OpenVinoTrunk
from maskserve.modeling.proposals import propose
from maskserve.modeling.resize import resize
from maskserve.modeling.trunk import TorchTrunk, Trunk
from maskserve.protos.errors import ConfigError

MASK_SIZE = 28


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


class Predictor:
    """A Detectron2 Mask R-CNN in evaluation mode.

    Args:
        cfg: the resolved config of the model (`maskserve.modeling.config.load_cfg`).
        class_names: one per class of the model, in order.
        weights: a state dict, or a file of one with Detectron2's names (tensors only).
        device: "cpu", "cuda", "cuda:1", or "auto" (a GPU when there is one).
        precision: "fp32" or "bf16", of convolutions and matrix products. A device that does not calculate in bfloat16
            emulates it: slower, with the same answers. "int8": of the trunk, on the CPU whatever `device` is; the heads
            then calculate in bfloat16 where the CPU does, else in float32.
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
        self._device: torch.device = model.device
        self._mean, self._std = (value.flatten().cpu() for value in (model.pixel_mean, model.pixel_std))
        stride = max(1, model.backbone.size_divisibility)
        self._strides = (stride, LONG_STRIDE if precision == "int8" else stride)
        self.trunk: Trunk = _int8_trunk(trunk) if precision == "int8" else TorchTrunk(model).to(dtype)
        self._rpn, self._heads = model.proposal_generator, model.roi_heads
        prepare_heads(self._heads, dtype, self._device)

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
        pixels, inner_sizes = self.pixels(images, sizes)
        middle = time.perf_counter()
        with torch.inference_mode():
            features, logits, deltas = self.trunk(pixels.to(self._device))
            proposals = propose(self._rpn, logits, deltas, inner_sizes)
            found, _ = self._heads(None, features, proposals)
            predictions = [_prediction(one, size) for one, size in zip(found, sizes, strict=True)]
        end = time.perf_counter()
        return predictions, StageTimes((middle - start) * 1000, (end - middle) * 1000)

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at which the network sees an image of `size`."""
        return network_size(size, self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST)

    def pixels(
        self, images: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, list[tuple[int, int]]]:
        """The trunk's input: float32 (B, 3, H, W), channels last, normalised, padded with 0 to the right and below.

        Args:
            images, sizes: as of a call.

        Returns:
            The batch, and each image's (height, width) in it.
        """
        shown = [resize(image, self.network_size(size), size) for image, size in zip(images, sizes, strict=True)]
        inner_sizes = [_size(image) for image in shown]
        height, width = padded_size(inner_sizes, *self._strides)
        batch = torch.zeros(len(shown), height, width, 3)
        for place, image in zip(batch, shown, strict=True):
            if self.cfg.INPUT.FORMAT == "BGR":
                image = image[:, :, ::-1].copy()
            inside = place[: image.shape[0], : image.shape[1]]
            torch.sub(torch.from_numpy(image), self._mean, out=inside).div_(self._std)
        return batch.permute(0, 3, 1, 2), inner_sizes


def network_size(size: tuple[int, int], min_size: int, max_size: int) -> tuple[int, int]:
    """The size at which the network sees an image: shortest edge `min_size`, longest at most `max_size`.

    The rule of Detectron2's ResizeShortestEdge, but never below 1 px (a 1 × 10,000 image is legal).
    """
    if min_size <= 0:
        return size
    height, width = size
    scale = min(min_size / min(height, width), max_size / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def padded_size(sizes: Sequence[tuple[int, int]], stride: int, long_stride: int) -> tuple[int, int]:
    """(height, width) that holds images of all `sizes`: multiples of `stride`, the longer one of `long_stride`."""
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    strides = (long_stride, stride) if height > width else (stride, long_stride)
    return -(-height // strides[0]) * strides[0], -(-width // strides[1]) * strides[1]


def _dtype(precision: Precision) -> torch.dtype:
    """Of what torch calculates."""
    if precision == "bf16" or (precision == "int8" and has_fast_bfloat16("cpu")):
        return torch.bfloat16
    return torch.float32


def _int8_trunk(path: Path | None) -> Trunk:
    if path is None:
        raise ConfigError("precision int8 needs the trunk.xml that `maskserve package --precision int8` makes")
    return OpenVinoTrunk(path)


def _inference_cfg(cfg: CfgNode, device: str) -> CfgNode:
    if not cfg.MODEL.MASK_ON:
        raise ConfigError("the config makes no masks: set MODEL.MASK_ON True")
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise ConfigError(f"INPUT.FORMAT {cfg.INPUT.FORMAT!r}: choose RGB or BGR")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = pick_device(device)
    cfg.MODEL.WEIGHTS = ""
    cfg.freeze()
    return cfg


def _size(image: np.ndarray) -> tuple[int, int]:
    return int(image.shape[0]), int(image.shape[1])


def _prediction(instances: Instances, size: tuple[int, int]) -> Prediction:
    """Boxes scaled from network px to original px and clipped; boxes without an inside are dropped."""
    height, width = size
    net_height, net_width = instances.image_size
    scale = instances.scores.new_tensor([width / net_width, height / net_height] * 2)
    limit = instances.scores.new_tensor([width, height] * 2)
    boxes = torch.minimum((instances.pred_boxes.tensor * scale).clamp_(min=0), limit)
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    masks = instances.pred_masks if instances.has("pred_masks") else boxes.new_zeros((0, 1, MASK_SIZE, MASK_SIZE))
    return Prediction(
        size=size,
        boxes_xyxy=boxes[keep].float().cpu().numpy(),
        scores=instances.scores[keep].float().cpu().numpy(),
        class_ids=instances.pred_classes[keep].cpu().numpy(),
        mask_probs=masks[keep, 0].float().cpu().numpy(),
    )
