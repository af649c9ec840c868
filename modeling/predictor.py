"""A batch of RGB photos in, instances in original pixels out: the one predictor of worker, evaluation and CLI.

    images ─▶ resize (shortest edge) ─▶ colour order, normalise, pad ─▶ one forward ─▶ boxes back to original px
                                                                                      masks stay M×M probabilities

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
from PIL import Image
from torch import Tensor

from maskserve.modeling.loading import load_network
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

    Raises:
        ConfigError: the config makes no Mask R-CNN, or classes or weights do not fit it.
    """

    def __init__(
        self,
        cfg: CfgNode,
        class_names: Sequence[str],
        *,
        weights: Path | str | Mapping[str, Tensor],
        device: str = "auto",
    ) -> None:
        self.cfg = _inference_cfg(cfg, device)
        self.class_names = tuple(class_names)
        if len(self.class_names) != self.cfg.MODEL.ROI_HEADS.NUM_CLASSES:
            raise ConfigError(
                f"the config has {self.cfg.MODEL.ROI_HEADS.NUM_CLASSES} classes (MODEL.ROI_HEADS.NUM_CLASSES), "
                f"but {len(self.class_names)} class names were given: {', '.join(self.class_names)}"
            )
        self.model = load_network(self.cfg, weights)

    def __call__(self, images: Sequence[np.ndarray]) -> tuple[list[Prediction], StageTimes]:
        """Segment a batch with one forward.

        Args:
            images: uint8 (H, W, 3) RGB, any sizes.

        Returns:
            One prediction per image in the same order (all the model finds above its own lowest threshold,
            `MODEL.ROI_HEADS.SCORE_THRESH_TEST`, at most `TEST.DETECTIONS_PER_IMAGE`), and the batch's times.
        """
        if not images:
            return [], StageTimes(0.0, 0.0)
        start = time.perf_counter()
        inputs = [{"image": self._input(image)} for image in images]
        middle = time.perf_counter()
        with torch.inference_mode():
            outputs = self.model.inference(inputs, do_postprocess=False)
            predictions = [_prediction(out, _size(image)) for out, image in zip(outputs, images, strict=True)]
        end = time.perf_counter()
        return predictions, StageTimes((middle - start) * 1000, (end - middle) * 1000)

    def _input(self, image: np.ndarray) -> Tensor:
        """float32 (3, h, w), 0..255 in the model's colour order; the model itself subtracts the mean and pads."""
        size = network_size(_size(image), self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST)
        pixels = resize(image, size)
        if self.cfg.INPUT.FORMAT == "BGR":
            pixels = pixels[:, :, ::-1]
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32))


def network_size(size: tuple[int, int], min_size: int, max_size: int) -> tuple[int, int]:
    """The size at which the network sees an image: shortest edge `min_size`, longest at most `max_size`.

    The rule of Detectron2's ResizeShortestEdge, but never below 1 px (a 1 × 10,000 image is legal).
    """
    if min_size <= 0:
        return size
    height, width = size
    scale = min(min_size / min(height, width), max_size / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) ─▶ uint8 (*size, 3), Pillow's bilinear filter (it averages when it shrinks)."""
    if _size(image) == size:
        return image
    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def pick_device(device: str) -> str:
    """The device itself, or for "auto" a GPU when there is one."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


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
