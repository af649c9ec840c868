"""Every AP is pycocotools' own, a resample's AP is that of really duplicated photos, and one arm ties with itself."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskserve.comparison.average_precision import AREAS, average_precision, matches_of
from maskserve.comparison.findings import class_gaps
from maskserve.comparison.paired_bootstrap import draw
from maskserve.comparison.results import ALL_CLASSES, Row, Statistics
from maskserve.comparison.statistics import compute_statistics
from maskserve.protos.errors import DataError
from maskserve.training.datasets.manifest import Manifest, load_manifest
from maskserve.training.evaluate import ground_truth, matched
from tests.comparison.answers import CATEGORIES, answer, label, random_answers, random_labels, write_manifest

IMAGE_IDS = list(range(30, 0, -1))
KINDS = {"box": "bbox", "mask": "segm"}


@pytest.fixture(scope="module")
def labels() -> list[dict[str, Any]]:
    return random_labels(np.random.default_rng(5), IMAGE_IDS)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, labels: Any) -> Manifest:
    return write_manifest(tmp_path_factory.mktemp("data") / "test.json", labels, IMAGE_IDS)


@pytest.fixture(scope="module")
def good(labels: Any) -> list[dict[str, Any]]:
    return random_answers(np.random.default_rng(6), labels, IMAGE_IDS, noise=0.05, spurious=3)


@pytest.fixture(scope="module")
def poor(labels: Any) -> list[dict[str, Any]]:
    return random_answers(np.random.default_rng(7), labels, IMAGE_IDS, noise=0.3, spurious=6)


@pytest.fixture(scope="module")
def statistics(manifest: Manifest, good: Any, poor: Any) -> Statistics:
    return compute_statistics(manifest, good, poor, split="test", resamples=300)


def coco_run(source: dict[str, Any], answers: list[dict[str, Any]], kind: str) -> COCOeval:
    """pycocotools alone, none of our code: labels numbered from 1, masks without boxes as COCO submits them."""
    truth = COCO()
    truth.dataset = copy.deepcopy(source)
    for number, entry in enumerate(truth.dataset["annotations"], 1):
        entry["id"] = number
    unwanted = {"bbox": "segmentation", "segm": "bbox"}[kind]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = [{key: value for key, value in a.items() if key != unwanted} for a in answers]
        run = COCOeval(truth, truth.loadRes(results), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def row(statistics: Statistics, kind: str, metric: str, class_name: str = ALL_CLASSES, area: str = "all") -> Row:
    rows = getattr(statistics, kind).rows
    (found,) = (r for r in rows if (r.metric, r.class_name, r.area) == (metric, class_name, area))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_ap_is_that_of_pycocotools(kind: str, manifest: Manifest, statistics: Statistics, good: Any, poor: Any):
    source = json.loads(manifest.path.read_text())
    for arm, answers in (("a", good), ("b", poor)):
        run = coco_run(source, answers, KINDS[kind])
        places = [("AP", "all"), ("AP50", "all"), ("AP75", "all"), ("AP", "small"), ("AP", "medium"), ("AP", "large")]
        ours = [getattr(row(statistics, kind, metric, area=area), arm) for metric, area in places]
        assert np.array(ours) / 100 == pytest.approx(run.stats[:6], abs=1e-9)
        for category_id, name in CATEGORIES:
            precision = run.eval["precision"][:, :, run.params.catIds.index(category_id), 0, -1]
            assert getattr(row(statistics, kind, "AP", name), arm) == pytest.approx(100 * precision.mean(), abs=1e-7)
            assert getattr(row(statistics, kind, "AP50", name), arm) == pytest.approx(
                100 * precision[0].mean(), abs=1e-7
            )


@pytest.mark.parametrize("kind", KINDS)
def test_curves_are_those_of_pycocotools(kind: str, manifest: Manifest, statistics: Statistics, good: Any):
    run = coco_run(json.loads(manifest.path.read_text()), good, KINDS[kind])
    precision = run.eval["precision"][:, :, :, 0, -1]
    for curve in getattr(statistics, kind).curves:
        if curve.arm != "a":
            continue
        theirs = precision[{0.5: 0, 0.75: 5}[curve.iou]]
        if curve.class_name == ALL_CLASSES:
            expected = theirs.mean(axis=1)
        else:
            ids = {name: id_ for id_, name in CATEGORIES}
            expected = theirs[:, run.params.catIds.index(ids[curve.class_name])]
        assert curve.precision == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS.values())
def test_a_resample_has_the_ap_of_a_data_set_whose_photos_are_duplicated(kind: str, manifest: Manifest, good: Any):
    source = json.loads(manifest.path.read_text())
    run = matched(ground_truth(manifest, set(IMAGE_IDS)), good, kind)
    weights = draw(len(IMAGE_IDS), 6, seed=11)
    ours = np.array([[average_precision(m, weights) for m in by_area] for by_area in matches_of(run)])
    for resample in range(1, weights.shape[1]):
        times = dict(zip(run.params.imgIds, weights[:, resample].astype(int), strict=True))
        theirs = coco_run(*duplicated(source, good, times), kind).eval["precision"][:, :, :, :, -1]
        # (T, recalls, C, A) ─▶ (C, A, T); pycocotools marks a class without instances by −1
        expected = theirs.mean(axis=1).transpose(1, 2, 0)
        assert ours[..., resample] == pytest.approx(np.where(expected < 0, np.nan, expected), abs=1e-9, nan_ok=True)


def duplicated(source: dict[str, Any], answers: list[dict[str, Any]], times: dict[int, int]) -> tuple[Any, Any]:
    """The data set and answers with each photo that many times, copies beside the original."""
    copies = {id_: [id_ * 1000 + copy_ for copy_ in range(count)] for id_, count in times.items()}

    def of(entries: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
        return [{**entry, key: id_} for entry in entries for id_ in copies[entry[key]]]

    images, annotations = of(source["images"], "id"), of(source["annotations"], "image_id")
    return {**source, "images": images, "annotations": annotations}, of(answers, "image_id")


def test_an_arm_ties_with_itself(manifest: Manifest, good: Any):
    same = compute_statistics(manifest, good, list(reversed(good)), split="test", resamples=50)
    for found in (*same.box.rows, *same.mask.rows):
        assert found.difference == pytest.approx(0, abs=1e-9)
        if found.low is not None:
            assert (found.low, found.high, found.p_a_better) == pytest.approx((0, 0, 0.5), abs=1e-9)
    assert all(photo.a == photo.b for photo in same.photos)


def test_swapping_the_arms_mirrors_every_difference(manifest: Manifest, statistics: Statistics, good: Any, poor: Any):
    swapped = compute_statistics(manifest, poor, good, split="test", resamples=300)
    for one, other in zip(statistics.mask.rows, swapped.mask.rows, strict=True):
        assert (one.a, one.b) == pytest.approx((other.b, other.a))
        assert (one.low is None) == (other.low is None)
        if one.low is not None:
            assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
            assert one.p_a_better == pytest.approx(1 - other.p_a_better)


def test_the_better_arm_is_ahead_and_the_interval_holds_the_difference(statistics: Statistics):
    first = statistics.mask.rows[0]
    assert (first.metric, first.class_name, first.area) == ("AP", ALL_CLASSES, "all")
    assert 0 < first.low < first.difference < first.high
    assert first.p_a_better > 0.99


def test_the_same_seed_gives_the_same_intervals_and_another_seed_does_not(
    manifest: Manifest, statistics: Statistics, good: Any, poor: Any
):
    again = compute_statistics(manifest, good, poor, split="test", resamples=300)
    other = compute_statistics(manifest, good, poor, split="test", resamples=300, seed=1)
    assert again == statistics
    assert other.mask.rows[0].difference == statistics.mask.rows[0].difference
    assert other.mask.rows[0].low != statistics.mask.rows[0].low


def test_a_class_without_instances_has_no_ap_no_interval_and_no_curve(tmp_path: Path):
    box = (10.0, 10.0, 80.0, 80.0)
    manifest = write_manifest(tmp_path / "test.json", [label(1, 1, 7, box)], [1, 2])
    answers = [answer(1, 7, box, 0.9), answer(2, 2, box, 0.8)]
    found = compute_statistics(manifest, answers, [], split="test", resamples=40)
    absent = row(found, "mask", "AP", "red panda")
    assert (absent.instance_count, absent.a, absent.difference, absent.low, absent.p_a_better) == (0, *[None] * 4)
    assert row(found, "mask", "AP", area="large").a is None
    assert row(found, "mask", "AP").difference == pytest.approx(100)
    # the one photo with an instance is missing from some resamples: they say nothing, not 0
    assert (row(found, "mask", "AP").low, row(found, "mask", "AP").p_a_better) == pytest.approx((100, 1))
    assert {curve.class_name for curve in found.mask.curves} == {ALL_CLASSES, "giant panda"}
    assert found.instances == {"giant panda": 1, "red panda": 0, "koala": 0}


@pytest.mark.parametrize(("photos", "has_interval"), [(1, False), (4, False), (5, True)])
def test_a_class_on_a_handful_of_photos_has_no_interval_that_could_leave_zero_out(
    tmp_path: Path, photos: int, has_interval: bool
):
    box = (10.0, 10.0, 80.0, 80.0)
    labels = [label(n, n, 7 if n <= photos else 2, box) for n in range(1, 31)]
    manifest = write_manifest(
        tmp_path / "test.json", [*labels, label(31, 1, 7, (120.0, 10.0, 80.0, 80.0))], range(1, 31)
    )
    answers = [answer(n, 7 if n <= photos else 2, box, 0.9) for n in range(1, 31)]
    found = compute_statistics(manifest, answers, [], split="test", resamples=100)
    rare = row(found, "mask", "AP", "giant panda")
    assert rare.difference > 50
    assert [value is not None for value in (rare.low, rare.high, rare.p_a_better)] == [has_interval] * 3
    assert set(class_gaps(found)) == ({"giant panda", "red panda"} if has_interval else {"red panda"})
    assert row(found, "mask", "AP").low > 0


def test_photos_without_a_label_have_no_ap_at_all(tmp_path: Path):
    manifest = write_manifest(tmp_path / "test.json", [], [1, 2])
    found = compute_statistics(manifest, [answer(1, 7, (10, 10, 80, 80), 0.9)], [], split="test", resamples=20)
    assert {(r.a, r.difference) for r in found.mask.rows} == {(None, None)}
    assert found.mask.curves == ()
    assert [(photo.a, photo.b) for photo in found.photos] == [(0, 1), (1, 1)]


def test_chosen_photos_alone_count_as_a_data_set_of_their_own(
    tmp_path: Path, manifest: Manifest, labels: Any, good: Any, poor: Any
):
    some = IMAGE_IDS[5:15]
    chosen = compute_statistics(manifest, good, poor, split="test", image_ids=some, resamples=50)
    alone = write_manifest(tmp_path / "some.json", [entry for entry in labels if entry["image_id"] in some], some)
    cut = compute_statistics(alone, good, poor, split="test", resamples=50)
    assert chosen.image_count == 10
    assert (chosen.mask, chosen.confusion, chosen.photos) == (cut.mask, cut.confusion, cut.photos)


def test_photos_come_in_the_manifests_order_with_their_names(statistics: Statistics):
    assert [photo.image_id for photo in statistics.photos] == IMAGE_IDS
    assert statistics.photos[0].file_name == "30.jpg"


def test_photo_ids_may_be_words(tmp_path: Path):
    box = (10.0, 10.0, 80.0, 80.0)
    manifest = write_manifest(tmp_path / "test.json", [label(0, "tree", 7, box)], ["tree", "bush"])
    found = compute_statistics(manifest, [answer("tree", 7, box, 0.9)], [], split="test", resamples=20)
    assert (found.mask.rows[0].a, found.mask.rows[0].b) == pytest.approx((100, 0))
    assert [photo.image_id for photo in found.photos] == ["tree", "bush"]


def test_no_photo_of_the_choice_is_an_error_that_names_the_file(manifest: Manifest, good: Any):
    with pytest.raises(DataError, match=r"test\.json has none of the photos"):
        compute_statistics(manifest, good, good, split="test", image_ids=[999])


def test_progress_grows_to_1(manifest: Manifest, good: Any):
    shares: list[float] = []
    compute_statistics(manifest, good, good, split="test", resamples=5, on_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_it_can_be_written_as_json(statistics: Statistics):
    written = json.loads(json.dumps(asdict(statistics), allow_nan=False))
    assert written["mask"]["rows"][0]["a"] == statistics.mask.rows[0].a


@pytest.mark.kit
def test_real_labels_with_crowds_and_80_classes_give_pycocotools_ap(kit: Path):
    manifest = load_manifest(kit / "datasets/tiny_coco/annotations/instances_val2017.json")
    source = json.loads(manifest.path.read_text())
    a, b = (shaken(source, np.random.default_rng(seed), noise) for seed, noise in ((1, 4), (2, 15)))
    found = compute_statistics(manifest, a, b, split="val", resamples=100)
    for kind in KINDS:
        for arm, answers in (("a", a), ("b", b)):
            ours = [getattr(row(found, kind, "AP", area=area), arm) for area in AREAS]
            assert np.array(ours) / 100 == pytest.approx(
                coco_run(source, answers, KINDS[kind]).stats[[0, 3, 4, 5]], abs=1e-9
            )
    assert 0 < found.mask.rows[0].low < found.mask.rows[0].high


def shaken(source: dict[str, Any], rng: np.random.Generator, noise: float) -> list[dict[str, Any]]:
    """COCO's polygons moved by some px as answers, a tenth of them missing."""
    from pycocotools import mask as coco_mask

    sizes = {image["id"]: (image["height"], image["width"]) for image in source["images"]}
    answers = []
    for entry in source["annotations"]:
        if entry["iscrowd"] or rng.random() < 0.1:
            continue
        shift = np.tile(rng.normal(0, noise, 2), 1)
        moved = [(np.reshape(polygon, (-1, 2)) + shift).ravel().tolist() for polygon in entry["segmentation"]]
        rle = coco_mask.merge(coco_mask.frPyObjects(moved, *sizes[entry["image_id"]]))
        fields = {"image_id": entry["image_id"], "category_id": entry["category_id"], "score": float(rng.random())}
        answers.append({**fields, "bbox": coco_mask.toBbox(rle).tolist(), "segmentation": rle})
    return answers
