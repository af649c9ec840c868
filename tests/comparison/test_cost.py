"""The interval of a median, and memory of a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maskserve.comparison import cost
from maskserve.protos.errors import ConfigError
from maskserve.training.datasets.manifest import dataset_dicts, load_dataset
from maskserve.training.measured_worker import peak_memory
from tests.runs import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "small", "mobilenetv2")


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
