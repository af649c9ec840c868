"""The same photos through the running TorchServe: AP of what it answers must be AP of the weights.

    photo's bytes ─▶ client (gRPC) ─▶ TorchServe ─▶ Segmentation ─▶ COCO results ─▶ AP | offline AP ─▶ equal?

The score threshold sent is 0 and the maximum as high as the contract has it, so that the answer is all that the model
keeps and AP sees the same instances.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maskserve.client import Client, RequestError
from maskserve.client.errors import OutOfMemory
from maskserve.comparison.arms import Arm
from maskserve.comparison.results import Ap, ArmName, Kind, Served, ServedArm, Statistics
from maskserve.comparison.statistics import compute_statistics
from maskserve.protos.errors import ConfigError, DataError
from maskserve.protos.types import ModelInfo, Segmentation, SegmentOptions
from maskserve.training.datasets.manifest import Manifest
from maskserve.training.evaluate import category_ids
from maskserve.training.loader import Record
from maskserve.training.own_command import own_command
from maskserve.training.package import Package

TOLERANCE = 0.1
"""AP points: what float32 on other threads may move."""
ALL = SegmentOptions(score_threshold=0.0, max_instances=1000)
_NOBODY = ModelInfo("", "", "")


@dataclass(frozen=True)
class Server:
    """The running TorchServe, and what the arms are called there."""

    address: str = "localhost:7070"
    models: tuple[str | None, str | None] = (None, None)
    """NAME or NAME:VERSION of a and b; None: as `maskserve package` names the run, the default version."""
    token: str | Path | None = None
    timeout_s: float = 60.0

    def connect(self) -> Client:
        """Raises ConfigError for an address or token that cannot be used."""
        return Client(self.address, token=self.token, timeout_s=self.timeout_s)

    def model(self, arm: Arm) -> tuple[str, str]:
        """(name, version), "" for the default version."""
        name, _, version = (self.models[0 if arm.name == "a" else 1] or arm.facts.model).partition(":")
        return name, version


def check_server(server: Server, arms: Sequence[Arm], packages: Mapping[ArmName, Package], record: Record) -> None:
    """One photo through both served models, before the long work begins.

    Raises:
        ConfigError: a served archive is not what `maskserve package` makes of the run, or is run otherwise.
        DataError: the photo cannot be sent.
        ServerError: TorchServe does not answer.
    """
    with server.connect() as client:
        for arm in arms:
            answer, _ = _ask(client, server, arm, record)
            name = ":".join(filter(None, server.model(arm)))
            if answer.model.precision != arm.variant.precision:
                raise ConfigError(
                    f"TorchServe serves {name} in {answer.model.precision}, and {arm.path} would be measured in "
                    f"{arm.variant.precision}: compare the archive that TorchServe loaded, or serve this run in "
                    f"{arm.variant.precision}"
                )
            served, ours = answer.model.archive_digest, packages[arm.name].archive_digest
            if served != ours:
                raise ConfigError(
                    f"what TorchServe serves as {name} is not {arm.path} (digest {served[:12]}, the run's is "
                    f"{ours[:12]}): other weights, fewer proposals, or packaged by another version of maskserve. "
                    "Compare the archive that TorchServe loaded, or run "
                    f"`{own_command('package', arm.path)}` and start TorchServe again, "
                    f"or say which model it is with --model-{arm.name}"
                )


def measure_served(
    server: Server,
    arms: Sequence[Arm],
    packages: Mapping[ArmName, Package],
    manifest: Manifest,
    records: Sequence[Record],
    statistics: Statistics,
    on_answer: Callable[[], None] = lambda: None,
) -> Served:
    """AP of both served models on all `records`, beside that in `statistics`.

    Raises:
        DataError: a photo cannot be sent as it is.
        ServerError: TorchServe does not answer.
    """
    ids = dict(zip(manifest.class_names, category_ids(manifest), strict=True))
    heard = {arm.name: _Heard() for arm in arms}
    with server.connect() as client:
        for record in records:
            for arm in arms:
                answer, took_ms = _ask(client, server, arm, record)
                heard[arm.name].add(answer, took_ms, to_results(answer, record["image_id"], ids))
                on_answer()
    # the same computation as offline; its bootstrap is not needed
    again = compute_statistics(manifest, heard["a"].results, heard["b"].results, split=statistics.split, resamples=1)
    measured = tuple(_served_arm(arm.name, heard[arm.name], packages[arm.name], again, statistics) for arm in arms)
    return Served(
        address=server.address,
        arms=measured,
        tolerance=TOLERANCE,
        equal=all(arm.same_weights and _is_close(arm) for arm in measured),
    )


@dataclass
class _Heard:
    """What one served model answered."""

    results: list[dict[str, Any]] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)
    spent_ms: list[float] = field(default_factory=list)
    model: ModelInfo = _NOBODY

    def add(self, answer: Segmentation, took_ms: float, results: list[dict[str, Any]]) -> None:
        self.results += results
        self.digests.add(answer.model.archive_digest)
        self.spent_ms.append(took_ms)
        self.model = answer.model


def _served_arm(arm: ArmName, heard: _Heard, package: Package, served: Statistics, offline: Statistics) -> ServedArm:
    p50, p95 = np.percentile(heard.spent_ms, (50, 95))
    return ServedArm(
        arm=arm,
        model=heard.model.name,
        version=heard.model.version,
        archive_digest=heard.model.archive_digest,
        same_weights=heard.digests == {package.archive_digest},
        mask_ap=_ap(served.mask, arm),
        mask_ap_offline=_ap(offline.mask, arm),
        box_ap=_ap(served.box, arm),
        box_ap_offline=_ap(offline.box, arm),
        round_trip_p50_ms=float(p50),
        round_trip_p95_ms=float(p95),
    )


def to_results(answer: Segmentation, image_id: Any, category_ids: Mapping[str, int]) -> list[dict[str, Any]]:
    """An answer as pycocotools wants it: boxes XYWH px, masks as RLE of the whole photo.

    Args:
        category_ids: by class name.
    """
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[instance.class_name],
            "bbox": [left, top, right - left, bottom - top],
            "segmentation": {"size": list(instance.mask_rle.size), "counts": instance.mask_rle.counts},
            "score": instance.score,
        }
        for instance in answer.instances
        if instance.mask_rle
        for left, top, right, bottom in [instance.box_xyxy]
    ]


def _ask(client: Client, server: Server, arm: Arm, record: Record) -> tuple[Segmentation, float]:
    name, version = server.model(arm)
    photo = Path(record["file_name"])
    image = photo.read_bytes()
    start = time.perf_counter()
    try:
        answer = client.predict(image, model=name, version=version, options=ALL)
    except (RequestError, OutOfMemory) as error:
        raise DataError(f"{photo}: TorchServe cannot answer it: {error}") from error
    return answer, (time.perf_counter() - start) * 1000


def _ap(kind: Kind, arm: ArmName) -> Ap:
    """Of everything."""
    return kind.rows[0].a if arm == "a" else kind.rows[0].b


def _is_close(arm: ServedArm) -> bool:
    pairs = ((arm.mask_ap, arm.mask_ap_offline), (arm.box_ap, arm.box_ap_offline))
    return all(
        served == offline if served is None or offline is None else abs(served - offline) <= TOLERANCE
        for served, offline in pairs
    )
