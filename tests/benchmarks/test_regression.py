"""What makes the predictor fast, counted instead of timed: the operators that a photo costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import models
from benchmarks.peers.predictor import load_predictor as stock
from maskserve.modeling.predictor import Predictor
from maskserve.training.run_folder import RunFolder

PHOTO = np.random.default_rng(0).integers(0, 255, (160, 240, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-50 with frozen norms, as both arms are served, at 160 px."""
    folder = tmp_path_factory.mktemp("run") / "r50"
    return models.make_run(folder, models.network_cfg("r50", 160, preset="quick"), "r50", PHOTO)


def ours(run: Path) -> Predictor:
    folder = RunFolder(run)
    return Predictor(folder.load_cfg(), folder.load_classes(), weights=folder.weights)


def operators(work: Callable[[], Any]) -> Counter[str]:
    """How often each of torch's operators is called, once everything is warm."""
    from torch.profiler import ProfilerActivity, profile

    work()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        work()
    return Counter({event.key: event.count for event in recorded.key_averages() if "::" in event.key})


def test_a_photo_costs_no_more_operators_than_detectron2s_predictor(run: Path) -> None:
    """The same convolutions, and nothing beside them more often."""
    images, fast, slow = [PHOTO], ours(run), stock(run)
    own, its = operators(lambda: fast(images)), operators(lambda: slow(PHOTO[..., ::-1]))
    assert own["aten::convolution"] <= its["aten::convolution"]
    assert own["aten::batch_norm"] <= its["aten::batch_norm"]
    assert sum(own.values()) <= sum(its.values())


def test_norms_are_folded_and_regions_are_not_cut_out_by_torchvision(run: Path) -> None:
    """Frozen norms are part of their convolutions, and ROIAlign is the one that uses all cores."""
    predictor = ours(run)
    own = operators(lambda: predictor([PHOTO]))
    assert own["aten::batch_norm"] == own["aten::native_batch_norm"] == 0
    assert own["torchvision::roi_align"] == 0


def test_the_counts_are_of_this_network(run: Path) -> None:
    """ResNet-50 has 53 convolutions with a norm, and the preset's mask head two."""
    slow = stock(run)
    with torch.no_grad():
        its = operators(lambda: slow(PHOTO[..., ::-1]))
    assert its["aten::batch_norm"] == 53 + 2
