"""What is read of a run, and the words for it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from maskserve.comparison.arms import network, open_arms, short_names, started_from
from maskserve.modeling.config import new_cfg
from maskserve.protos.errors import ConfigError
from maskserve.training.package import package_run
from tests.runs import make_run


def test_an_archive_is_as_good_as_its_run(tmp_path: Path):
    """The same answers, facts and digest."""
    run = make_run(tmp_path / "runs" / "small", "mobilenetv2")
    packed = package_run(run, tmp_path / "store")
    a, b = open_arms((run, packed.path), tmp_path / "scratch")
    photo = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    (one,), (other,) = a.predictor([photo])[0], b.predictor([photo])[0]
    assert len(one.scores) > 0
    assert np.array_equal(one.scores, other.scores)
    assert (a.facts.model, a.facts.backbone) == (b.facts.model, b.facts.backbone)
    assert package_run(b.folder.path, tmp_path / "again").archive_digest == packed.archive_digest


def test_an_archive_in_another_precision_is_not_measured_as_if_it_were_fp32(tmp_path: Path):
    (tmp_path / "int8.mar").touch()
    with zipfile.ZipFile(tmp_path / "int8.mar", "w") as archive:
        archive.writestr("model_card.json", json.dumps({"precision": "int8"}))
    with pytest.raises(ConfigError, match=r"int8\.mar: runs in int8, and compare measures fp32"):
        open_arms((tmp_path / "int8.mar", tmp_path / "int8.mar"), tmp_path / "scratch")


def test_a_file_that_is_no_archive_is_named(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("no archive")
    with pytest.raises(ConfigError, match=r"notes\.txt: neither a run folder nor an archive"):
        open_arms((tmp_path / "notes.txt", tmp_path / "notes.txt"), tmp_path / "scratch")


@pytest.mark.parametrize(
    ("a", "b", "names"),
    [
        ("runs/r50", "runs/mnv2", ("r50", "mnv2")),
        ("slow/mnv2", "fast/mnv2", ("slow", "fast")),
        ("store/mnv2.mar", "runs/mnv2", ("store", "runs")),
        ("runs/mnv2", "runs/mnv2", ("mnv2", "mnv2")),
    ],
)
def test_runs_are_called_by_what_differs(a: str, b: str, names: tuple[str, str]):
    assert short_names((Path(a), Path(b))) == names


def test_a_narrow_network_is_called_so():
    """Nobody shall take half a ResNet for a whole one."""
    cfg = new_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    assert network(cfg) == "ResNet-50"
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 128
    assert network(cfg) == "half-width ResNet-50"
    init = {"kind": "file", "source": "thin.pth", "loaded": "265 of 300 tensors from thin.pth", "licence": "MIT"}
    assert started_from(init, cfg).startswith("half-width ResNet-50 of a file: 265 of 300 tensors from thin.pth (MIT)")
    cfg.MODEL.BACKBONE.NAME = "build_mobilenetv2_fpn_backbone"
    cfg.MODEL.MOBILENETV2.WIDTH_MULT = 0.35
    assert network(cfg) == "MobileNetV2 of width 0.35"


@pytest.mark.parametrize(
    ("init", "words"),
    [
        ({"kind": "none"}, "trained from scratch"),
        ({"kind": "coco", "source": "x.pkl"}, "trained on COCO, heads included"),
        ({"kind": "imagenet", "source": "y.pth"}, "ImageNet-trained"),
        ({}, "not recorded"),
    ],
)
def test_what_an_arm_started_from_is_said_in_words(init: dict[str, str], words: str):
    assert words in started_from(init, new_cfg())
