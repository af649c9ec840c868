"""A run folder or an archive ─▶ an arm: its predictor, and in words what it is and what it started from."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from maskserve.comparison.results import ARM_NAMES, ArmFacts, ArmName
from maskserve.modeling.device import check_precision, pick_device
from maskserve.modeling.network import BASIC_BLOCK_CHANNELS, BASIC_BLOCK_DEPTHS, DEFAULT_RES2_CHANNELS
from maskserve.modeling.openvino_trunk import TRUNK_FILE, TRUNK_FILES
from maskserve.modeling.predictor import Predictor
from maskserve.protos.errors import ConfigError
from maskserve.training.package import read_run
from maskserve.training.run_folder import RunFolder
from maskserve.training.variant import AS_TRAINED, Variant

_FILES = {"config.yaml": "config.yaml", "classes.json": "classes.json", "model.pth": "model_best.pth"}
"""In an archive ─▶ in a run folder."""
_UNKNOWN = "not recorded"


@dataclass(frozen=True, eq=False)
class Arm:
    """A loaded model and where it came from."""

    name: ArmName
    path: Path
    """As the user named it."""
    folder: RunFolder
    """The same; of an archive, what was unpacked."""
    variant: Variant
    """How it is run: a run folder in fp32, an archive as TorchServe runs it."""
    predictor: Predictor
    facts: ArmFacts


def open_arms(runs: tuple[Path, Path], scratch: Path) -> tuple[Arm, Arm]:
    """Both arms, loaded; archives (`.mar`) are unpacked into `scratch`.

    Raises:
        ConfigError: a run folder or an archive is missing, incomplete or damaged, or runs in a precision that is not to
            be had here.
    """
    opened = [
        _unpacked(run, scratch / name) if run.is_file() else (run, AS_TRAINED)
        for name, run in zip(ARM_NAMES, runs, strict=True)
    ]
    folders, variants = zip(*opened, strict=True)
    contents = [read_run(folder) for folder in folders]
    labels = _labels((contents[0].cfg, contents[1].cfg), runs)
    a, b = (
        Arm(
            name=name,
            path=run,
            folder=RunFolder(folder),
            variant=variant,
            predictor=variant.predictor(RunFolder(folder)),
            facts=_facts(name, label, run, content.facts, content.cfg, variant),
        )
        for name, label, run, folder, variant, content in zip(
            ARM_NAMES, labels, runs, folders, variants, contents, strict=True
        )
    )
    return a, b


def short_names(runs: tuple[Path, Path]) -> tuple[str, str]:
    """The last part in which the two paths differ, or both their last part."""
    parts = [str(run.resolve()).removesuffix(".mar").split("/") for run in runs]
    for a, b in zip(reversed(parts[0]), reversed(parts[1]), strict=False):
        if a != b:
            return a, b
    return parts[0][-1], parts[1][-1]


def network(cfg: CfgNode) -> str:
    """The network in words, its width where that is unusual."""
    return _backbone(cfg) + (" lite" if cfg.MODEL.LITE else "")


def started_from(init: Mapping[str, Any], cfg: CfgNode) -> str:
    """run.json's `init` in words."""
    source, licence = init.get("source", "a file"), init.get("licence", _UNKNOWN)
    if init.get("kind") == "none":
        return "random weights: trained from scratch"
    if init.get("kind") == "coco":
        return f"a Mask R-CNN trained on COCO, heads included: {source} ({licence})"
    if init.get("kind") == "imagenet":
        return f"an ImageNet-trained {_backbone(cfg)}: {source} ({licence}); FPN and heads random"
    if init.get("kind") == "file":
        return f"{_backbone(cfg)} of a file: {init.get('loaded', source)} ({licence}); the rest random"
    return _UNKNOWN


def _facts(name: ArmName, label: str, run: Path, facts: Mapping[str, Any], cfg: CfgNode, variant: Variant) -> ArmFacts:
    return ArmFacts(
        name=name,
        label=label,
        run=str(run),
        model=str(facts.get("model") or run.resolve().stem),
        backbone=f"{network(cfg)}, FPN of {cfg.MODEL.FPN.OUT_CHANNELS} channels, {_input_size(cfg)}, "
        f"{variant.precision}, {cfg.MODEL.RPN.POST_NMS_TOPK_TEST} proposals",
        init=started_from(facts.get("init") or {}, cfg),
        precision=variant.precision,
        preset=str(facts.get("preset", _UNKNOWN)),
        steps=int(facts.get("steps", 0)),
        train_s=float(facts.get("train_s", 0.0)),
        facts=facts,
    )


def _labels(cfgs: tuple[CfgNode, CfgNode], runs: tuple[Path, Path]) -> tuple[str, str]:
    networks = network(cfgs[0]), network(cfgs[1])
    return networks if networks[0] != networks[1] else _told_apart(short_names(runs))


def _told_apart(names: tuple[str, str]) -> tuple[str, str]:
    return names if names[0] != names[1] else (f"{names[0]} (A)", f"{names[1]} (B)")


def _backbone(cfg: CfgNode) -> str:
    if "mobilenetv2" in cfg.MODEL.BACKBONE.NAME:
        return _with_width("MobileNetV2", cfg.MODEL.MOBILENETV2.WIDTH_MULT)
    resnets = cfg.MODEL.RESNETS
    usual = BASIC_BLOCK_CHANNELS if resnets.DEPTH in BASIC_BLOCK_DEPTHS else DEFAULT_RES2_CHANNELS
    return _with_width(f"ResNet-{resnets.DEPTH}", resnets.RES2_OUT_CHANNELS / usual)


def _with_width(name: str, width: float) -> str:
    if width == 1:
        return name
    return f"half-width {name}" if width == 0.5 else f"{name} of width {width:g}"


def _input_size(cfg: CfgNode) -> str:
    return f"photos at {cfg.INPUT.MIN_SIZE_TEST} px (short side)" if cfg.INPUT.MIN_SIZE_TEST else "photos at full size"


def _unpacked(archive: Path, folder: Path) -> tuple[Path, Variant]:
    """A run folder made of what an archive holds, and how the archive runs it."""
    folder.mkdir(parents=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            card = json.loads(packed.read("model_card.json"))
            precision, facts, evaluation = card["precision"], card["training"], card["evaluation"]
            files = _FILES | ({name: name for name in TRUNK_FILES} if precision == "int8" else {})
            for theirs, ours in files.items():
                with packed.open(theirs) as read, (folder / ours).open("wb") as write:
                    shutil.copyfileobj(read, write, 1 << 20)
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ConfigError(f"{archive}: neither a run folder nor an archive of `maskserve package` ({error})") from None
    (folder / "run.json").write_text(json.dumps({**facts, "model": card["name"]}), encoding="utf-8")
    (folder / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    check_precision(precision, pick_device("auto"))
    return folder, Variant(precision, folder / TRUNK_FILE if precision == "int8" else None)
