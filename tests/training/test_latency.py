"""Latency of several predictors, taken in turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maskserve.modeling.predictor import Predictor
from maskserve.training.datasets.manifest import dataset_dicts, load_dataset
from maskserve.training.latency import WARM_UPS, alternate
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

    def __call__(self, images: Any, sizes: Any = None) -> Any:
        self.calls.append(self.name)
        return super().__call__(images, sizes)


@pytest.mark.parametrize(("names", "order"), [("ab", "abbaabba"), ("abc", "abccbaabccba")])
def test_predictors_take_turns(run: Path, pandas: Path, names: str, order: str):
    """Each photo goes through all before the next, every other time backwards; warm-ups are not counted."""
    calls: list[str] = []
    records = dataset_dicts(load_dataset(pandas).train)[:4]
    spent_ms = alternate([Counted(run, name, calls) for name in names], records)
    assert "".join(calls)[len(names) * WARM_UPS :] == order
    assert spent_ms.shape == (len(names), 4)
    assert spent_ms.min() > 0
