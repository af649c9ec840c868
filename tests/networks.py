"""Random networks of every kind, and what Detectron2's own code makes of a photo with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from torch import nn

from maskserve.modeling.predictor import Prediction
from maskserve.modeling.resize import resize
from maskserve.training.presets import ARMS, resolve_cfg

CLASSES = ("giant panda", "red panda")
TINY = (
    "MODEL.DEVICE",
    "cpu",
    "INPUT.MIN_SIZE_TEST",
    "96",
    "INPUT.MAX_SIZE_TEST",
    "160",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "0.01",
)
NETWORKS = {
    "resnet50": ("resnet50", "quick"),
    "resnet50 without norm": ("resnet50", "quick", "MODEL.RESNETS.NORM", ""),
    "resnet18": ("resnet50", "quick", "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"),
    "resnet18 with GN": ("resnet50", "quick", "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.NORM", "GN"),
    "mobilenetv2 with full heads": ("mobilenetv2", "standard"),
    "mobilenetv2, quick": ("mobilenetv2", "quick"),
    "mobilenetv2, a stem as narrow as res1": ("mobilenetv2", "quick", "MODEL.MOBILENETV2.WIDTH_MULT", "0.25"),
    "mobilenetv2 lite, stride 16": (
        "mobilenetv2", "quick", "MODEL.LITE", "True", "MODEL.MOBILENETV2.OUTPUT_STRIDE", "16",
    ),
}  # fmt: skip


def network(arm: str, preset: str, *overrides: str) -> tuple[CfgNode, nn.Module]:
    """A random network whose batch norms have seen something, so that folding them is put to the test."""
    cfg = resolve_cfg(ARMS[arm], preset=preset, recipe="none", class_count=2, seed=0, overrides=(*TINY, *overrides))
    torch.manual_seed(1)
    model = build_model(cfg)
    generator = torch.Generator().manual_seed(2)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "norm.bias")):
            tensor.normal_(0, 0.1, generator=generator)
        elif name.endswith(("running_var", "norm.weight")):
            tensor.uniform_(0.8, 1.2, generator=generator)
        elif name.endswith("cls_score.weight"):
            # or no score is far from the others; a ResNet's features are larger, and all scores would be 1
            tensor.normal_(0, 0.02 if arm == "resnet50" else 0.2, generator=generator)
    return cfg, model.eval()


def as_detectron2(model: Any, cfg: CfgNode, images: list[np.ndarray]) -> list[Any]:
    inputs = []
    for image in images:
        size = ResizeShortestEdge.get_output_shape(*image.shape[:2], cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        pixels = resize(image, size)
        pixels = pixels[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else pixels
        inputs.append({"image": torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype("float32"))})
    with torch.inference_mode():
        return list(model.inference(inputs, do_postprocess=False))


def assert_same(ours: Sequence[Prediction], theirs: Sequence[Any], images: Sequence[np.ndarray]) -> None:
    """To rounding; two scores that differ by rounding alone may change places."""
    assert sum(len(one.scores) for one in ours) > 10
    for expected, got, image in zip(theirs, ours, images, strict=True):
        height, width = expected.image_size
        scale = np.array([image.shape[1] / width, image.shape[0] / height] * 2, np.float32)
        boxes = expected.pred_boxes.tensor.numpy() * scale
        assert len(got.scores) == len(boxes)
        mine = [int(np.abs(got.boxes_xyxy - box).max(1).argmin()) for box in boxes]
        assert sorted(mine) == list(range(len(boxes)))
        np.testing.assert_allclose(got.scores[mine], expected.scores, atol=2e-4)
        np.testing.assert_allclose(got.boxes_xyxy[mine], boxes, atol=0.05)
        np.testing.assert_allclose(got.mask_probs[mine], expected.pred_masks[:, 0], atol=2e-3)
        np.testing.assert_array_equal(got.class_ids[mine], expected.pred_classes)
