"""The real TorchServe's answers have the AP of the weights that it serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskserve.comparison.arms import Arm, open_arms
from maskserve.comparison.served import ALL, Server, check_server, measure_served, to_results
from maskserve.comparison.statistics import compute_statistics
from maskserve.protos.errors import ConfigError
from maskserve.training.datasets.manifest import Manifest, dataset_dicts, load_dataset
from maskserve.training.evaluate import category_ids, coco_results, predictions
from maskserve.training.package import Package, package_run
from maskserve.training.variant import Variant
from tests.runs import make_run

pytestmark = pytest.mark.torchserve


@pytest.fixture(scope="module")
def arms(real_torchserve: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Arm, Arm]:
    """The runs whose archives are served."""
    runs = real_torchserve.store.parent / "runs"
    return open_arms((runs / "resnet50", runs / "mobilenetv2"), tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def packages(arms: tuple[Arm, Arm], tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Package]:
    return {arm.name: package_run(arm.folder.path, tmp_path_factory.mktemp("store")) for arm in arms}


@pytest.fixture(scope="module")
def manifest(pandas: Path) -> Manifest:
    return load_dataset(pandas).train


def offline(arm: Arm, manifest: Manifest) -> list[dict[str, Any]]:
    ids = category_ids(manifest)
    return [
        result
        for record, prediction, _ in predictions(arm.predictor, dataset_dicts(manifest))
        for result in coco_results(prediction, record["image_id"], ids)
    ]


def test_served_ap_is_offline_ap(real_torchserve, arms, packages, manifest):
    """Within 0.1 points, with the digest of the run's own archive; and a server with other AP is not called equal."""
    found = [offline(arm, manifest) for arm in arms]
    statistics = compute_statistics(manifest, *found, split="train", resamples=10)
    server, records = Server(real_torchserve.address), dataset_dicts(manifest)
    check_server(server, arms, packages, records[0])
    served = measure_served(server, arms, packages, manifest, records, statistics)
    assert served.equal
    for one in served.arms:
        assert one.same_weights
        assert one.mask_ap == pytest.approx(one.mask_ap_offline, abs=0.1)
        assert one.box_ap == pytest.approx(one.box_ap_offline, abs=0.1)
        assert 0 < one.round_trip_p50_ms <= one.round_trip_p95_ms
    first = replace(statistics.mask.rows[0], a=(statistics.mask.rows[0].a or 0) + 0.2)
    wrong = replace(statistics, mask=replace(statistics.mask, rows=(first, *statistics.mask.rows[1:])))
    assert not measure_served(server, arms, packages, manifest, records, wrong).equal


def test_served_instances_are_the_offline_ones(real_torchserve, arms, manifest):
    """All that the model keeps, with nearly the same numbers."""
    from maskserve.client import Client

    ids = dict(zip(manifest.class_names, category_ids(manifest), strict=True))
    with Client(real_torchserve.address) as client:
        for arm in arms:
            here = offline(arm, manifest)
            there = []
            for record in dataset_dicts(manifest):
                image = Path(record["file_name"]).read_bytes()
                there += to_results(client.predict(image, model=arm.facts.model, options=ALL), record["image_id"], ids)
            assert len(here) == len(there) > 20
            for image_id in {one["image_id"] for one in here}:
                ours, theirs = ([one for one in results if one["image_id"] == image_id] for results in (here, there))
                boxes, served = (np.array([one["bbox"] for one in results]) for results in (ours, theirs))
                # two scores that differ by rounding alone may change places
                same = [int(np.abs(served - box).max(1).argmin()) for box in boxes]
                assert sorted(same) == list(range(len(boxes)))
                assert np.abs(boxes - served[same]).max() < 0.1
                assert max(abs(one["score"] - theirs[j]["score"]) for one, j in zip(ours, same, strict=True)) < 1e-3


def test_another_precision_under_the_name_is_refused_at_once(real_torchserve, arms, packages, manifest):
    """The digest is of the files, which bf16 shares with fp32."""
    other = [replace(arm, variant=Variant("bf16")) for arm in arms]
    with pytest.raises(ConfigError, match=r"serves mask_rcnn_r50_fpn in fp32, and .* measured in bf16"):
        check_server(Server(real_torchserve.address), other, packages, dataset_dicts(manifest)[0])


def test_other_weights_under_the_name_are_refused_at_once(real_torchserve, arms, manifest, tmp_path):
    """Before any time is spent on measuring."""
    stranger = make_run(tmp_path / "stranger", "mobilenetv2", seed=7)
    other = {arm.name: package_run(stranger, tmp_path / "store") for arm in arms}
    with pytest.raises(ConfigError, match=r"serves as mask_rcnn_r50_fpn is not .*resnet50 "):
        check_server(Server(real_torchserve.address), arms, other, dataset_dicts(manifest)[0])
