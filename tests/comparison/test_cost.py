"""Latency in turns, its interval, and memory of a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskserve.comparison import cost
from maskserve.modeling.predictor import Predictor
from maskserve.protos.errors import ConfigError
from maskserve.training.datasets.manifest import dataset_dicts, load_dataset
from maskserve.training.measured_worker import peak_memory
from maskserve.training.run_folder import RunFolder
from tests.runs import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "small", "mobilenetv2")


class Counted(Predictor):
    """A real predictor that notes when it is asked."""

    def __init__(self, run: Path, name: str, calls: list[str]) -> None:
        folder = RunFolder(run)
        super().__init__(folder.load_cfg(), folder.load_classes(), weights=folder.weights)
        self.name, self.calls = name, calls

    def __call__(self, images: Any) -> Any:
        self.calls.append(self.name)
        return super().__call__(images)


def test_arms_take_turns(run: Path, pandas: Path):
    """Each photo goes through both before the next, and who goes first alternates; warm-ups are not counted."""
    calls: list[str] = []
    records = dataset_dicts(load_dataset(pandas).train)[:4]
    spent_a, spent_b = cost.alternate(Counted(run, "a", calls), Counted(run, "b", calls), records)
    assert "".join(calls)[2 * cost.WARM_UPS :] == "abbaabba"
    assert len(spent_a) == len(spent_b) == 4
    assert min(spent_a.min(), spent_b.min()) > 0


def test_the_interval_of_a_median_shrinks_with_more_pairs():
    """And holds the true median of a known distribution."""
    values = np.random.default_rng(1).normal(3.0, 0.5, 400)
    low, high = cost.median_interval(values, seed=0, resamples=1000)
    few_low, few_high = cost.median_interval(values[:20], seed=0, resamples=1000)
    assert low < 3.0 < high
    assert high - low < (few_high - few_low) / 2


def test_memory_is_that_of_the_child(run: Path, pandas: Path):
    """Not of the process that asks, however big that is."""
    photos = [Path(record["file_name"]) for record in dataset_dicts(load_dataset(pandas).test)]
    before = peak_memory(run, photos)
    mine = np.ones(2_000_000_000 // 8)
    assert 100e6 < peak_memory(run, photos) < before * 1.2 < mine.nbytes + before


def test_a_run_that_does_not_load_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nothing: cannot be loaded in a process of its own"):
        peak_memory(tmp_path / "nothing", [])
