"""Networks by config go the whole way: trained, packaged, loaded as a worker loads them, answering a photo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from detectron2.modeling import build_model

from maskserve.cli.main import main
from maskserve.modeling.predictor import Predictor
from maskserve.training.package import package_run
from maskserve.training.run_folder import RunFolder
from maskserve.training.verify import verify
from tests.training.recorder import TINY

# pycocotools on numpy 2.4
pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")]

SMALL = ("MODEL.LITE", "True", "MODEL.MOBILENETV2.OUTPUT_STRIDE", "16", "MODEL.MOBILENETV2.WIDTH_MULT", "0.5")
GROUPED = ("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.NORM", "GN", "MODEL.FPN.NORM", "GN")


@pytest.mark.parametrize(
    ("arm", "overrides", "backbone", "network"),
    [
        ("mobilenetv2", SMALL, "mobilenetv2_0.5", "mobilenetv2_0.5-fpn-os16-lite"),
        ("resnet50", GROUPED, "resnet18", "resnet18-fpn"),
    ],
)
def test_a_network_by_config_is_trained_packaged_and_answers(
    pandas: Path, tmp_path: Path, arm: str, overrides: tuple[str, ...], backbone: str, network: str
):
    words = ["train", arm, "--data", str(pandas), "--preset", "quick", "--init", "none", "--output", str(tmp_path)]
    done = CliRunner().invoke(main, [*words, *TINY, *overrides, "SOLVER.MAX_ITER", "2"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert f"{arm}: {network}, " in done.stderr
    assert "GFLOPs at 64 × 85" in done.stderr
    (folder,) = tmp_path.iterdir()
    run = RunFolder(folder)
    record = run.read_json("run.json")
    assert (record["arm"], record["backbone"], record["network"]) == (arm, backbone, network)
    assert folder.name == record["model"]  # the arm's name: config.properties and maskserve.toml know it

    predictor = Predictor(run.load_cfg(), run.load_classes(), weights=run.weights, device="cpu")
    assert record["complexity"]["all"]["parameters"] == sum(p.numel() for p in build_model(run.load_cfg()).parameters())
    (found,), _ = predictor([np.zeros((90, 120, 3), np.uint8)])
    assert found.size == (90, 120)

    shown = CliRunner().invoke(main, ["model", str(folder), "--json"], catch_exceptions=False)
    assert json.loads(shown.stdout)["complexity"] == record["complexity"]

    answer = verify(package_run(folder, tmp_path / "store").path).answer
    assert answer["model"]["backbone"] == backbone
