"""`maskserve model`: what a run's network, or one still to be trained, is and costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from maskserve.cli.main import main
from tests.runs import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the ResNet arm, with a ResNet-18."""
    return make_run(tmp_path_factory.mktemp("runs") / "r50", "resnet50")


def test_a_run_s_network_is_shown_part_by_part(run: Path):
    done = CliRunner().invoke(main, ["model", str(run)], catch_exceptions=False)
    assert "resnet18-fpn" in done.stdout
    assert "backbone GN" in done.stdout
    for part in ("backbone", "fpn", "rpn", "box head", "mask head", "all"):
        assert f"\n{part} " in done.stdout
    assert "GFLOPs at 128 × 171" in done.stdout.splitlines()[-1]


def test_an_arm_is_shown_before_it_is_trained(run: Path):
    words = ["model", "mobilenetv2", "MODEL.LITE", "True", "--preset", "quick", "--json"]
    found = json.loads(CliRunner().invoke(main, words, catch_exceptions=False).stdout)
    assert found["network"] == "mobilenetv2-fpn-lite"
    assert found["fpn_channels"] == 64
    parts = [part for part in found["complexity"].values() if isinstance(part, dict)]
    assert parts[0]["flops"] == sum(part["flops"] for part in parts[1:]) > 0


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["nowhere"], 1, "nowhere is no run folder"),
        (["resnet50", "MODEL.RESNETS.DEPTH", "20"], 1, "choose one of 18, 34"),
        (["runs/some", "MODEL.LITE", "True"], 2, "a run keeps its config"),
    ],
)
def test_what_cannot_be_shown_is_said(words: list[str], status: int, said: str):
    done = CliRunner().invoke(main, ["model", *words])
    assert done.exit_code == status
    assert said in done.stderr
