"""A run folder measured on a split: the run's own evaluation, or a later one on other photos.

run folder + data ─▶ Predictor ─▶ AP ─▶ evaluation.json, samples.png
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from maskserve.imaging.encode import encode_picture
from maskserve.modeling.predictor import Predictor
from maskserve.protos.errors import ConfigError, DataError
from maskserve.training.datasets.manifest import Manifest, dataset_dicts, load_dataset, load_manifest
from maskserve.training.evaluate import Evaluation, evaluate
from maskserve.training.run_folder import RunFolder
from maskserve.training.samples import sample_sheet


def evaluate_run(
    run: Path,
    data: Path,
    *,
    split: str,
    output: Path | None = None,
    on_start: Callable[[int], None] = lambda _total: None,
    on_photo: Callable[[], None] = lambda: None,
) -> tuple[Evaluation, Path]:
    """Measure a run's best weights, write the result into `output` (default: the run) and return both.

    Raises:
        ConfigError: no run folder, or its classes are not the data's.
        DataError: the data has no such split or cannot be used.
    """
    folder = RunFolder(run)
    cfg, class_names = folder.load_cfg(), folder.load_classes()
    manifest = find_split(data, split)
    split = data.stem if data.is_file() else split
    check_classes(run, class_names, manifest)
    predictor = Predictor(cfg, class_names, weights=folder.weights)
    target = RunFolder(output or run)
    target.path.mkdir(parents=True, exist_ok=True)  # where that fails, before minutes of measuring
    on_start(manifest.image_count)
    result = evaluate(predictor, manifest, split=split, on_photo=on_photo)
    write_results(target, result, sample_sheet(predictor, dataset_dicts(manifest)))
    return result, target.path


def find_split(data: Path, split: str) -> Manifest:
    """The manifest of a split in a dataset folder; a COCO file is taken as it is. Raises DataError."""
    if data.is_file():
        return load_manifest(data)
    dataset = load_dataset(data)
    found: Manifest | None = getattr(dataset, split)
    if found is None:
        raise DataError(f"{data} has no {split}.json; choose another --split or name a COCO file")
    return found


def check_classes(run: Path, class_names: tuple[str, ...], manifest: Manifest) -> None:
    """Raises ConfigError when a run's classes are not the data's."""
    if manifest.class_names != class_names:
        raise ConfigError(
            f"{run} knows the classes {', '.join(class_names)}, {manifest.path} has {', '.join(manifest.class_names)}; "
            "choose data with the same classes in the same order"
        )


def write_results(folder: RunFolder, result: Evaluation, sheet: np.ndarray) -> None:
    """evaluation.json and samples.png (`sheet`: uint8 RGB)."""
    folder.write_json("evaluation.json", result.to_json())
    png = encode_picture(sheet, "png")
    folder.write("samples.png", lambda path: path.write_bytes(png))
