"""Full-size networks that need no training, and photos that need no download; the same from the same seed.

    arm config, preset `standard` ─▶ random weights ─▶ norms calibrated on a drawn photo ─▶ run folder
    drawn pandas ─▶ JPEG 768 × 512 and 12 megapixels

Speed does not depend on what weights know, but on what reaches the heads: 1000 proposals reach the box head and
`instances` detections the mask head, because no score is too low. Norms that are constants of a random network let
numbers grow without bound, so each takes the mean and the variance of what it sees. Masks fill their boxes: random
ones would be noise, whose outlines take a drawing peer far longer than a real object's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

SEED = 20
CLASS_NAMES = ("giant panda", "red panda")
BACKBONES = {"r50": "resnet50", "mnv2": "mobilenetv2"}
"""Our short names of the two arms in rows ─▶ the arms' own."""
TITLES = {"r50": "R50-FPN", "mnv2": "MNV2-FPN"}
INSTANCES = 10
MAX_SIDE = 1333
PHOTO_SIZE = (512, 768)
LARGE_SIZE = (3000, 4000)
_MASK_LOGIT = 2.0


def network_cfg(backbone: str, short_side: int, instances: int = INSTANCES, preset: str = "standard") -> Any:
    """The frozen config of an arm as `maskserve train` resolves it, at another size and number of detections."""
    from maskserve.training.presets import ARMS, resolve_cfg

    name = BACKBONES[backbone]
    nothing = 1.1  # a score that nothing reaches
    overrides = {
        "INPUT.MIN_SIZE_TEST": short_side,
        "INPUT.MAX_SIZE_TEST": MAX_SIDE * max(1, short_side // 800),
        "TEST.DETECTIONS_PER_IMAGE": max(1, instances),
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0 if instances else nothing,
        "MODEL.ANCHOR_GENERATOR.FIT": False,
    }
    return resolve_cfg(
        ARMS[name],
        preset=preset,
        recipe=f"{name}-torchvision",
        class_count=len(CLASS_NAMES),
        seed=SEED,
        overrides=[text for key, value in overrides.items() for text in (key, str(value))],
    )


def make_run(folder: Path, cfg: Any, backbone: str, photo: np.ndarray) -> Path:
    """A run folder such as `maskserve train` leaves, of a network that nobody has trained.

    Args:
        cfg: see `network_cfg`.
        photo: uint8 (H, W, 3) RGB; norms are calibrated on it.
    """
    import torch
    from detectron2.modeling import build_model

    torch.manual_seed(SEED)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    calibrate(model, photo)
    predictor = model.roi_heads.mask_head.predictor
    torch.nn.init.zeros_(predictor.weight)
    torch.nn.init.constant_(predictor.bias, _MASK_LOGIT)
    folder.mkdir(parents=True)
    torch.save({name: value.clone() for name, value in model.state_dict().items()}, folder / "model_best.pth")
    name = f"benchmark_{backbone}"
    write_run(folder, cfg, {"model": name, "backbone": BACKBONES[backbone], "data_hash": "0" * 64, "seed": SEED})
    return folder


def sibling_run(folder: Path, run: Path, cfg: Any) -> Path:
    """A run folder with the weights of `run` and another config."""
    folder.mkdir(parents=True)
    (folder / "model_best.pth").hardlink_to(run / "model_best.pth")
    write_run(folder, cfg, json.loads((run / "run.json").read_text()))
    return folder


def write_run(folder: Path, cfg: Any, facts: dict[str, Any]) -> None:
    """Everything of a run folder but the weights."""
    (folder / "config.yaml").write_text(cfg.dump())
    for name, value in {"classes": list(CLASS_NAMES), "run": facts, "metrics": {}, "evaluation": {}}.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


def calibrate(model: Any, photo: np.ndarray) -> None:
    """Set every frozen norm's statistics to those of its input on one photo, from the first layer to the last."""
    import torch
    from detectron2.layers import FrozenBatchNorm2d

    def measure(norm: Any, inputs: tuple[Any, ...]) -> None:
        norm.running_mean.copy_(inputs[0].mean(dim=(0, 2, 3)))
        norm.running_var.copy_(inputs[0].var(dim=(0, 2, 3)))

    hooks = [
        module.register_forward_pre_hook(measure) for module in model.modules() if isinstance(module, FrozenBatchNorm2d)
    ]
    model.eval()
    pixels = torch.as_tensor(photo[:320, :320].copy()).permute(2, 0, 1)
    with torch.no_grad():
        images = model.preprocess_image([{"image": pixels}])
        model.backbone(images.tensor)
    for hook in hooks:
        hook.remove()


def draw_photo(path: Path, size: tuple[int, int]) -> Path:
    """A JPEG of drawn pandas, (height, width) px, quality 90."""
    import cv2
    import numpy as np

    from maskserve.imaging.encode import encode_picture
    from maskserve.training.datasets.panda_scenery import photograph
    from maskserve.training.datasets.pandas import compose

    rng = np.random.default_rng(SEED)
    canvas = compose(PHOTO_SIZE if size > PHOTO_SIZE else size, rng).canvas
    pixels = np.asarray(cv2.resize(photograph(canvas, rng), size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
    if size > PHOTO_SIZE:  # an enlarged drawing is too smooth for a camera's picture
        grain = rng.normal(0, 4, pixels.shape).astype(np.float32)
        pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_picture(pixels, "jpeg", quality=90))
    return path


def draw_dataset(folder: Path, photos: int = 48) -> Path:
    """A dataset folder of drawn pandas, made by the user's own commands."""
    maskserve = [sys.executable, "-m", "maskserve.cli.main", "data"]
    drawn = folder.with_name(f"{folder.name}-photos")
    options = ["--train", str(photos), "--test", "4", "--seed", str(SEED)]
    for command in (
        [*maskserve, "make-pandas", str(drawn), *options],
        [*maskserve, "import", str(drawn), "-o", str(folder)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            raise RuntimeError(f"{' '.join(command[3:5])} failed: {done.stderr.strip()[-300:]}")
    return folder
