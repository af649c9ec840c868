"""A small random Mask R-CNN, built once."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from maskserve.modeling.predictor import Predictor
from maskserve.training.presets import ARMS, resolve_cfg

CLASSES = ("giant panda", "red panda")


@pytest.fixture(scope="session")
def small_cfg() -> CfgNode:
    tiny = ("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "128", "TEST.DETECTIONS_PER_IMAGE", "6")
    return resolve_cfg(
        ARMS["mobilenetv2"],
        preset="quick",
        recipe="none",
        class_count=2,
        seed=0,
        overrides=(*tiny, "MODEL.DEVICE", "cpu"),
    )


@pytest.fixture(scope="session")
def random_state(small_cfg: CfgNode) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build_model(small_cfg).state_dict()


@pytest.fixture(scope="session")
def predictor(small_cfg: CfgNode, random_state: dict[str, torch.Tensor]) -> Predictor:
    return Predictor(small_cfg, CLASSES, weights=random_state, device="cpu")
