"""A dataset goes back to labelme: every polygon, every group, every photo."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from maskserve.protos.errors import DataError
from maskserve.training.datasets import labelme
from maskserve.training.datasets.geometry import has_area
from maskserve.training.datasets.importing import ImportOptions, import_labels
from maskserve.training.datasets.photos import photo_size
from maskserve.training.datasets.sources import find_labelme
from maskserve.training.datasets.to_labelme import export_labelme
from tests.labelme_loader import load_with_labelme
from tests.training.datasets.coco_files import HOLED, SQUARE, annotation, write_coco
from tests.training.datasets.labelme_files import photo_bytes, square, write_labelme

ALL_TRAIN = ImportOptions(test_fraction=0)
HALF_A_PIXEL = 0.5

Object = tuple[str, list[np.ndarray]]


def _shapes(path: Path) -> list[dict[str, Any]]:
    shapes: list[dict[str, Any]] = json.loads(path.read_text())["shapes"]
    return shapes


def _objects(path: Path) -> list[Object]:
    """Label and outlines of each object in a labelme file."""
    found = labelme.instances(labelme.read_labelme(path).shapes)
    return [(instance.label, [np.array(outline) for outline in instance.polygons]) for instance in found]


def _assert_kept(before: Sequence[Object], after: Sequence[Object]) -> None:
    assert [(label, [len(o) for o in outlines]) for label, outlines in before] == [
        (label, [len(o) for o in outlines]) for label, outlines in after
    ]
    for (_, ours), (_, theirs) in zip(before, after, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert np.abs(one - other).max() <= HALF_A_PIXEL


def test_polygons_groups_labels_and_the_photo_are_in_the_file(tmp_path: Path) -> None:
    path = write_coco(
        tmp_path / "in/x.json",
        [annotation(1, [SQUARE], category=2), annotation(2, [SQUARE, [1, 1, 9, 1, 9, 9]])],
        categories=[(1, "gemüse"), (2, "dog")],
    )
    exported = export_labelme(path, tmp_path / "out")
    assert (exported.photos, exported.shapes, exported.warnings) == (1, 3, ())
    content = json.loads((tmp_path / "out/a.json").read_bytes().decode("ascii"))
    assert (content["imagePath"], content["imageData"]) == ("../in/a.jpg", None)
    assert (content["imageHeight"], content["imageWidth"]) == (60, 80)
    dog, one, two = content["shapes"]
    assert dog["points"] == [[10, 20], [40, 20], [40, 50], [10, 50]]
    assert (dog["label"], dog["group_id"], one["label"]) == ("dog", None, "gemüse")
    assert one["group_id"] == two["group_id"] is not None


def test_labelme_itself_loads_every_file_and_finds_its_photo(tmp_path: Path) -> None:
    write_coco(
        tmp_path / "in/train.json",
        [annotation(1, [SQUARE, SQUARE]), annotation(2, HOLED, image=2)],
        photos=["a.jpg", "deeper/b.png"],
    )
    write_coco(tmp_path / "in/test.json", [], photos=["c.jpg"])
    export_labelme(tmp_path / "in", tmp_path / "far/away/out")
    files = sorted((tmp_path / "far/away/out").rglob("*.json"))
    assert [file.relative_to(tmp_path / "far/away/out").as_posix() for file in files] == [
        "test/c.json",
        "train/a.json",
        "train/b.json",
    ]
    empty, pair, holed = load_with_labelme(files)
    assert empty["shapes"] == []
    assert [shape["points"] for shape in pair["shapes"]] == [[[10, 20], [40, 20], [40, 50], [10, 50]]] * 2
    assert {shape["shape_type"] for shape in [*pair["shapes"], *holed["shapes"]]} == {"polygon"}
    assert holed["bytes"] > 100


def test_an_rle_with_a_hole_becomes_polygons_that_fill_to_the_same_pixels(tmp_path: Path) -> None:
    counts = np.zeros((60, 80), np.uint8)
    counts[5:45, 10:60] = 1
    counts[15:30, 20:50] = 0
    runs = np.diff(np.flatnonzero(np.diff(counts.T.ravel(), prepend=0, append=0)), prepend=0).tolist()
    rle = {"size": [60, 80], "counts": [*runs, 60 * 80 - sum(runs)]}
    path = write_coco(tmp_path / "x.json", [annotation(1, rle)])
    before = import_labels([path], tmp_path / "before", ALL_TRAIN)
    export_labelme(path, tmp_path / "out")
    after = import_labels([tmp_path / "out"], tmp_path / "after", ALL_TRAIN)
    assert before.counts == after.counts == {"train": {"cat": 1}}
    (one,) = json.loads((tmp_path / "before/train.json").read_text())["annotations"]
    (two,) = json.loads((tmp_path / "after/train.json").read_text())["annotations"]
    assert len(two["segmentation"]) == 2
    assert two["area"] == pytest.approx(one["area"], rel=0.03)
    assert two["bbox"] == pytest.approx(one["bbox"], abs=1)


def test_crowds_are_left_out_and_told_and_what_is_outside_is_cut_and_told(tmp_path: Path) -> None:
    over = [70, 10, 100, 10, 100, 40, 70, 40]
    path = write_coco(tmp_path / "x.json", [annotation(1, HOLED, iscrowd=1), annotation(2, [over])])
    exported = export_labelme(path, tmp_path / "out")
    assert sorted((w.code, w.where.place) for w in exported.warnings) == [("crowd", 1), ("outside-image", 2)]
    (shape,) = _shapes(tmp_path / "out/a.json")
    assert max(x for x, _ in shape["points"]) == 80


def test_files_that_are_there_are_never_replaced_unless_asked_for(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "x.json", [annotation(1, [SQUARE])], photos=["a.jpg", "b.jpg"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b.json").write_text("a person's work")
    with pytest.raises(DataError, match=r"b\.json is there already; .*--overwrite"):
        export_labelme(path, tmp_path / "out")
    assert [file.read_text() for file in (tmp_path / "out").iterdir()] == ["a person's work"]
    export_labelme(path, tmp_path / "out", overwrite=True)
    assert _shapes(tmp_path / "out/b.json") == []


def test_photos_of_one_name_get_files_of_their_own(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "x.json", [annotation(1, [SQUARE], image=3)], photos=["a.jpg", "b/a.jpg", "c/A.png"])
    export_labelme(path, tmp_path / "out")
    names = {f.name: json.loads(f.read_text())["imagePath"] for f in (tmp_path / "out").iterdir()}
    assert names == {"a.json": "../a.jpg", "a_2.json": "../b/a.jpg", "A_3.json": "../c/A.png"}


def test_a_broken_dataset_leaves_nothing_behind(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "x.json", [annotation(1, [SQUARE], image=2)], photos=["a.jpg", "b.jpg"])
    (tmp_path / "b.jpg").write_bytes(b"no photo")
    with pytest.raises(DataError, match=r"b\.jpg"):
        export_labelme(path, tmp_path / "deep/out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jpg", "b.jpg", "x.json"]
    with pytest.raises(DataError, match="neither a dataset folder nor a COCO file"):
        export_labelme(write_labelme(tmp_path / "c", [square("cat")]), tmp_path / "out")


coordinates = st.floats(0, 1, width=32)
outlines = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=40)
labels = st.sampled_from(["cat", "dog", "Größe M", 'a "b"'])
drawings = st.lists(st.tuples(labels, outlines, st.none() | st.integers(0, 2)), min_size=1, max_size=6)
sides = st.integers(1, 90) | st.just(400)


def _draw(
    folder: Path, drawn: Sequence[tuple[str, list[tuple[float, float]], int | None]], size: tuple[int, int]
) -> Path:
    """A labelme file with the outlines that have an area, scaled from 0..1 to the photo."""
    scaled = [(label, [(x * size[1], y * size[0]) for x, y in o], group) for label, o, group in drawn]
    kept = [square(label, points=o, group_id=group) for label, o, group in scaled if has_area(o)]
    assume(kept)
    return write_labelme(folder / "a", kept, size=size, photo=photo_bytes(size, kind="PNG"), extension=".png")


@settings(deadline=None, max_examples=60)
@given(sides, st.integers(1, 90), drawings)
def test_any_polygons_in_any_groups_come_back_within_half_a_pixel(height: int, width: int, drawn: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = _draw(folder / "in", drawn, (height, width))
        import_labels([folder / "in"], folder / "dataset", ALL_TRAIN)
        export_labelme(folder / "dataset", folder / "out")
        _assert_kept(_objects(path), _objects(folder / "out/a.json"))


@settings(deadline=None, max_examples=40)
@given(st.integers(20, 90), st.integers(20, 90), drawings)
def test_a_second_round_changes_nothing(height: int, width: int, drawn: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _draw(folder / "in", drawn, (height, width))
        import_labels([folder / "in"], folder / "one", ALL_TRAIN)
        export_labelme(folder / "one", folder / "out")
        import_labels([folder / "out"], folder / "two", ALL_TRAIN)
        one, two = (json.loads((folder / n / "train.json").read_text())["annotations"] for n in ("one", "two"))
        assert one == two


@pytest.mark.kit
@pytest.mark.parametrize("name", ["pets-cat-dog", "fruits_nuts/images", "labelme-examples"])
def test_the_kits_labelme_files_come_back_with_every_polygon(kit: Path, tmp_path: Path, name: str) -> None:
    imported = import_labels([kit / "datasets" / name], tmp_path / "dataset", ALL_TRAIN)
    exported = export_labelme(tmp_path / "dataset", tmp_path / "out")
    assert exported.photos == sum(imported.images.values())
    returned = {file.stem: file for file in (tmp_path / "out").rglob("*.json")}
    kept = cut = 0
    for source in find_labelme([kit / "datasets" / name]):
        size = photo_size(labelme.read_labelme(source.path).image_bytes())
        after = _objects(_returned(returned, source.path.stem))
        for one, other in zip(_objects(source.path), after, strict=True):
            inside = all(((o >= 0) & (o <= size[::-1])).all() for o in one[1])
            if inside:
                _assert_kept([one], [other])
            kept, cut = kept + inside, cut + (not inside)
    assert cut <= 1 < kept
    load_with_labelme(sorted(returned.values())[:20])


def _returned(files: dict[str, Path], stem: str) -> Path:
    """Photos that lay in their JSON have a piece of their hash in the name since the import."""
    return files[stem] if stem in files else next(file for name, file in files.items() if name.startswith(f"{stem}-"))


@pytest.mark.kit
def test_coco_masks_and_polygons_come_back_and_its_crowds_do_not(kit: Path, tmp_path: Path) -> None:
    file = kit / "datasets/tiny_coco/annotations/instances_val2017.json"
    exported = export_labelme(file, tmp_path / "out")
    crowds = [a for a in json.loads(file.read_text())["annotations"] if a["iscrowd"]]
    assert sum(w.code == "crowd" for w in exported.warnings) == len(crowds) > 0
    before = import_labels([file], tmp_path / "before", ALL_TRAIN)
    after = import_labels([tmp_path / "out"], tmp_path / "after", ALL_TRAIN)
    assert {k: v for k, v in before.counts["train"].items() if v} == after.counts["train"]
