"""Which photos a run is measured on: those that are named, else of the data it was trained on, else drawn ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskserve.modeling.complexity import typical_size
from maskserve.training.datasets.coco import manifest_files
from maskserve.training.datasets.pandas import make_pandas
from maskserve.training.datasets.samples import find_samples
from maskserve.training.run_folder import RunFolder

PHOTOS = 6
"""Enough for photos with few and with many instances, few enough for a slow model."""
_SPLITS = ("test", "val", "train")


def tuning_photos(run: Path, scratch: Path, *, data: Path | None = None, photo: Path | None = None) -> list[Path]:
    """Files of `PHOTOS` photos, spread evenly over the data.

    Args:
        run: a run folder.
        scratch: an empty folder for copies.
        data: a dataset folder, a COCO file or a folder of labelme files.
        photo: this one alone.

    Raises:
        ConfigError: no run folder.
        DataError: `data` has no labelled photos.
    """
    if photo:
        return [photo]
    facts: dict[str, Any] = RunFolder(run).read_json("run.json")
    trained_on = Path(str(facts.get("data") or ""))
    if data is None and facts.get("data") and trained_on.exists():
        data = trained_on
    if data is None:
        return _drawn(run, scratch)
    files = manifest_files(data)
    samples = find_samples(next((files[split] for split in _SPLITS if split in files), data))
    count = min(PHOTOS, len(samples))
    chosen = [samples[index * len(samples) // count] for index in range(count)]
    for index, sample in enumerate(chosen):
        (scratch / f"{index}").write_bytes(sample.read())
    return [scratch / f"{index}" for index in range(count)]


def _drawn(run: Path, scratch: Path) -> list[Path]:
    """Pandas, as large as the network sees photos: the time for a bigger photo's decoding is not in the figures."""
    make_pandas(scratch / "pandas", train=PHOTOS, test=0, seed=0, size=typical_size(RunFolder(run).load_cfg()))
    return sorted((scratch / "pandas").rglob("*.jpg"))
