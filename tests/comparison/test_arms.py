"""What is read of a run, and the words for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskserve.comparison.arms import network, open_arms, short_names, started_from
from maskserve.modeling import device
from maskserve.modeling.config import new_cfg
from maskserve.protos.errors import ConfigError
from maskserve.training.package import package_run
from maskserve.training.precision import Choice
from maskserve.training.quantize import write_int8_trunk
from maskserve.training.run_folder import RunFolder
from maskserve.training.variant import AS_TRAINED, Variant
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


def test_an_archive_is_measured_as_torchserve_runs_it(tmp_path: Path):
    """Precision, trunk and proposals, and what `package` makes of it again has the same digest."""
    run = make_run(tmp_path / "runs" / "small", "mobilenetv2")
    Image.new("RGB", (160, 120), "tan").save(tmp_path / "photo.png")
    record = {"file_name": str(tmp_path / "photo.png"), "height": 120, "width": 160}
    trunk = write_int8_trunk(AS_TRAINED.predictor(RunFolder(run), device="cpu"), [record], tmp_path)
    packed = package_run(run, tmp_path / "store", choice=Choice(Variant("int8", trunk, proposals=7)))
    a, b = open_arms((run, packed.path), tmp_path / "scratch")
    assert (a.predictor.precision, b.predictor.precision) == ("fp32", "int8")
    assert b.predictor.cfg.MODEL.RPN.POST_NMS_TOPK_TEST == 7
    assert a.facts.backbone.endswith("fp32, 50 proposals")
    assert b.facts.backbone.endswith("int8, 7 proposals")
    photo = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    assert len(b.predictor([photo])[0][0].scores) <= 14 < len(a.predictor([photo])[0][0].scores)
    again = package_run(b.folder.path, tmp_path / "again", choice=Choice(b.variant))
    assert again.archive_digest == packed.archive_digest


def test_an_archive_in_a_precision_that_is_not_to_be_had_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = make_run(tmp_path / "runs" / "small", "mobilenetv2")
    packed = package_run(run, tmp_path / "store", choice=Choice(Variant("bf16")))
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda _device: False)
    with pytest.raises(ConfigError, match="does not calculate in bfloat16"):
        open_arms((run, packed.path), tmp_path / "scratch")


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
