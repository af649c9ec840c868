"""Two runs, one split of labelled photos ─▶ the comparison, on disk as a page, JSON, plots and answers.

    load, check ─▶ package (sizes, digests) ─▶ predict ─▶ statistics ─▶ cost ─▶ [served] ─▶ verdict
                                               comparison.html, comparison.json, plots, detections ◀──┘

Everything appears in the output folder together, or nothing does.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from maskserve.comparison.arms import Arm, open_arms, short_names
from maskserve.comparison.cost import measure_cost
from maskserve.comparison.origin import origin
from maskserve.comparison.page import plot_files, render_page
from maskserve.comparison.pictures import Gallery, draw_galleries
from maskserve.comparison.results import ArmName, Comparison
from maskserve.comparison.served import Server, check_server, measure_served
from maskserve.comparison.statistics import compute_statistics
from maskserve.comparison.verdict import decide
from maskserve.protos.errors import ConfigError
from maskserve.training.datasets.atomic import landing
from maskserve.training.datasets.manifest import Manifest, dataset_dicts
from maskserve.training.evaluate import category_ids, coco_results, predictions
from maskserve.training.evaluation_run import check_classes, find_split
from maskserve.training.loader import Record
from maskserve.training.package import Package, package_run
from maskserve.training.precision import Choice
from maskserve.training.run_folder import versions

Results = list[dict[str, Any]]
PAGE, VALUES, PLOTS = "comparison.html", "comparison.json", "plots"


@dataclass(frozen=True)
class Job:
    """What `maskserve compare` was asked to do."""

    runs: tuple[Path, Path]
    """Run folders or archives: arm a, arm b."""
    data: Path
    """A dataset folder or one COCO file."""
    split: str = "test"
    output: Path | None = None
    latency_photos: int = 40
    resamples: int = 2000
    seed: int = 0
    server: Server | None = None
    """The running TorchServe to ask, too."""

    @property
    def folder(self) -> Path:
        return self.output or Path("comparisons") / "-vs-".join(short_names(self.runs))


class Progress(Protocol):
    """Who is told how far the work is."""

    def stage(self, name: str, total: float) -> None:
        """A new stage begins; `total` steps of it are to come."""

    def advance(self, steps: float = 1) -> None:
        """So many steps of the stage are done."""


def compare(job: Job, progress: Progress) -> tuple[Comparison, Path]:
    """The comparison, and the page that was written.

    Raises:
        ConfigError: the output is no folder, a run cannot be loaded, its classes are not the data's, or TorchServe
            serves other weights.
        DataError: the data has no such split, or a photo cannot be used.
        ServerError: TorchServe does not answer.
    """
    with TemporaryDirectory(prefix="maskserve-compare-") as scratch:
        _check_place(job.folder)
        progress.stage("loading both arms", 2)
        manifest = find_split(job.data, job.split)
        arms = open_arms(job.runs, Path(scratch))
        for arm in arms:
            check_classes(arm.path, arm.predictor.class_names, manifest)
        packages = {
            arm.name: package_run(arm.folder.path, Path(scratch) / "store" / arm.name, choice=Choice(arm.variant))
            for arm in arms
        }
        records = dataset_dicts(manifest)
        if job.server:
            check_server(job.server, arms, packages, records[0])
        results = {arm.name: _answers(arm, manifest, records, progress) for arm in arms}
        comparison = _measured(job, arms, packages, manifest, records, results, progress)
        progress.stage("drawing the page", 0)
        labels: dict[ArmName, str] = {arm.name: arm.facts.label for arm in arms}
        galleries = draw_galleries(manifest, records, results, comparison.statistics, labels)
        write(job.folder, comparison, galleries, results)
    return comparison, job.folder / PAGE


def _check_place(folder: Path) -> None:
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir():
        raise ConfigError(f"{folder}: {place} is a file, so there can be no folder; name another with -o")


def _measured(
    job: Job,
    arms: tuple[Arm, Arm],
    packages: Mapping[ArmName, Package],
    manifest: Manifest,
    records: list[Record],
    results: Mapping[ArmName, Results],
    progress: Progress,
) -> Comparison:
    progress.stage("statistics", 1)
    statistics = compute_statistics(
        manifest,
        results["a"],
        results["b"],
        split=job.data.stem if job.data.is_file() else job.split,
        resamples=job.resamples,
        seed=job.seed,
        on_progress=_shares(progress),
    )
    progress.stage("latency, in turns", job.latency_photos)
    cost = measure_cost(
        arms,
        packages,
        records,
        pairs=job.latency_photos,
        seed=job.seed,
        resamples=job.resamples,
        on_pair=progress.advance,
    )
    served = None
    if job.server:
        progress.stage("asking TorchServe", len(arms) * len(records))
        served = measure_served(job.server, arms, packages, manifest, records, statistics, progress.advance)
    a, b = (arm.facts for arm in arms)
    verdict = decide(statistics, cost, {"a": a.label, "b": b.label}, served)
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return Comparison(a, b, origin(job.data, job.split, manifest), statistics, cost, served, verdict, made, versions())


def _shares(progress: Progress) -> Callable[[float], None]:
    """Takes the share of a stage that is done, 0..1, and passes on what is new."""
    done = 0.0

    def on_share(share: float) -> None:
        nonlocal done
        progress.advance(share - done)
        done = share

    return on_share


def _answers(arm: Arm, manifest: Manifest, records: list[Record], progress: Progress) -> Results:
    """Everything that an arm finds, as COCO results."""
    progress.stage(f"answers of {arm.facts.label}", len(records))
    ids, results = category_ids(manifest), []
    for record, prediction, _ in predictions(arm.predictor, records):
        results += coco_results(prediction, record["image_id"], ids)
        progress.advance()
    return results


def write(folder: Path, comparison: Comparison, galleries: list[Gallery], results: Mapping[ArmName, Results]) -> None:
    """The page, the JSON, the plots and the answers, all or none."""
    page = render_page(comparison, galleries)
    plots = plot_files(comparison)
    with landing(folder) as staged:
        for name, text in ((PAGE, page), (VALUES, to_json(comparison))):
            # the data's path may hold what is no UTF-8
            (staged / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        (staged / PLOTS).mkdir()
        for name, svg in plots.items():
            (staged / PLOTS / name).write_text(svg, encoding="utf-8")
        for arm, found in results.items():
            (staged / f"detections_{arm}.json.gz").write_bytes(gzip.compress(json.dumps(found).encode(), mtime=0))
    for path in (folder / PLOTS).glob("curve_*.svg"):
        if path.name not in plots:
            path.unlink()  # of a class of the comparison that was here before


def to_json(comparison: Comparison) -> str:
    return json.dumps(asdict(comparison), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
