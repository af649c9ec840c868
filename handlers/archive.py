"""What an unpacked archive says: which files are the model, how it is called, how the worker shall run it.

model dir / model-config.yaml, model_card.json, classes.json, config.yaml, model.pth (int8: trunk.xml) ─▶ Archive
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maskserve.modeling.machine import usable_cores
from maskserve.modeling.openvino_trunk import TRUNK_FILE
from maskserve.protos.types import ModelInfo

MOST_THREADS = 8
"""Of a worker whose archive says "auto". A rule, not a measurement: the parts of a photo that are serial, and the small
ones that threads only wait for, grow with the count. `maskserve package --tune` measures."""


@dataclass(frozen=True, slots=True)
class Archive:
    """One model as its archive describes it."""

    config: Path
    weights: Path
    trunk: Path | None
    """trunk.xml of precision int8."""
    class_names: tuple[str, ...]
    model: ModelInfo
    threads: int
    score_threshold: float
    """0..1, for requests that choose none."""

    @classmethod
    def read(cls, folder: Path, model_name: str) -> Archive:
        """The archive unpacked in `folder`; `model_name` is what TorchServe calls it. Any fault in it raises."""
        card = json.loads((folder / "model_card.json").read_text(encoding="utf-8"))
        settings = yaml.safe_load((folder / "model-config.yaml").read_text(encoding="utf-8"))
        return cls(
            config=folder / "config.yaml",
            weights=folder / "model.pth",
            trunk=folder / TRUNK_FILE if settings["precision"] == "int8" else None,
            class_names=tuple(json.loads((folder / "classes.json").read_text(encoding="utf-8"))),
            model=ModelInfo(
                name=model_name,
                version=card["version"],
                backbone=card["backbone"],
                precision=settings["precision"],
                archive_digest=card["archive_digest"],
            ),
            threads=thread_count(settings["threads"], settings["maxWorkers"]),
            score_threshold=float(settings["score_threshold"]),
        )


def thread_count(wanted: int | str, workers: int) -> int:
    """`wanted`, or for "auto" this machine's cores shared by the model's workers, `MOST_THREADS` at most.

    Not divided by the number of models: an A/B request computes in one arm, and halving its threads would double its
    latency to save a little when both arms compute at once.
    """
    if wanted != "auto":
        return max(1, int(wanted))
    return max(1, min(usable_cores() // max(1, workers), MOST_THREADS))


def device_of(system_properties: Mapping[str, Any]) -> str:
    """The GPU that TorchServe gave to this worker; without one, the CPU."""
    gpu = system_properties.get("gpu_id")
    if gpu is None:
        return "cpu"
    import torch

    return f"cuda:{gpu}" if torch.cuda.is_available() else "cpu"
