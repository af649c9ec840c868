"""Run folders with tiny random models, made in a moment: what `maskserve train` leaves, without the training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MODELS = {"resnet50": "mask_rcnn_r50_fpn", "mobilenetv2": "mask_rcnn_mnv2_fpn"}
CLASS_NAMES = ("giant panda", "red panda")


def make_run(folder: Path, backbone: str, class_names: Sequence[str] = CLASS_NAMES, seed: int = 0) -> Path:
    """A run folder at `folder`; random weights find a few dozen instances at scores of about 1/3 in any photo."""
    import torch
    from detectron2.modeling import build_model

    cfg = tiny_cfg(backbone, len(class_names))
    torch.manual_seed(seed)
    model = build_model(cfg)
    folder.mkdir(parents=True)
    torch.save({name: value.clone() for name, value in model.state_dict().items()}, folder / "model_best.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "classes.json").write_text(json.dumps(list(class_names)))
    (folder / "metrics.json").write_text("{}")
    (folder / "evaluation.json").write_text(json.dumps({"mask": {"ap": 12.5, "ap50": 40.0}}))
    (folder / "run.json").write_text(
        json.dumps({"model": MODELS[backbone], "backbone": backbone, "seed": seed, "data_hash": "0" * 64})
    )
    return folder


def tiny_cfg(backbone: str, classes: int) -> Any:
    """A Mask R-CNN of about a million parameters that answers a photo in some 50 ms."""
    from maskserve.modeling.config import new_cfg

    cfg = new_cfg()
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.MASK_ON = True
    if backbone == "resnet50":
        cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
        cfg.MODEL.RESNETS.DEPTH = 18
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
        # frozen norms of a random network let the numbers explode
        cfg.MODEL.RESNETS.NORM = "GN"
    else:
        cfg.MODEL.BACKBONE.NAME = "build_mobilenetv2_fpn_backbone"
        cfg.MODEL.MOBILENETV2.NORM = "GN"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [32], [64], [128], [256]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 50
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 50
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
    cfg.INPUT.MIN_SIZE_TEST = 128
    cfg.INPUT.MAX_SIZE_TEST = 256
    cfg.TEST.DETECTIONS_PER_IMAGE = 30
    cfg.OUTPUT_DIR = "/somewhere/on/the/trainers/disk"
    return cfg
