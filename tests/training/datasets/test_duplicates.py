"""Copies of a photo are found in other splits, however they were saved; different photos are not taken for copies."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from maskserve.training.datasets.duplicates import NEAR_BITS, distances, near_duplicate_findings, picture_hashes
from maskserve.training.datasets.findings import Finding, Where
from maskserve.training.datasets.photos import decode_photo
from maskserve.training.datasets.survey import Photo

Change = Callable[[Image.Image], Image.Image]


def _scene(seed: int) -> Image.Image:
    """Blobs of several sizes: a picture with structure at every scale, as photos have."""
    rng = np.random.default_rng(seed)
    layers = [
        Image.fromarray(rng.integers(0, 256, (n, n * 4 // 3, 3), np.uint8)).resize((320, 240)) for n in (3, 6, 12)
    ]
    return Image.blend(Image.blend(layers[0], layers[1], 0.4), layers[2], 0.2)


def _hashes(picture: Image.Image) -> np.ndarray:
    return picture_hashes(np.asarray(picture.convert("RGB")))


def _jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def _crop(picture: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = picture.size
    return picture.crop((int(left * width), int(top * height), int(right * width), int(bottom * height)))


CHANGES: dict[str, Change] = {
    "the same": lambda p: p,
    "JPEG quality 30": lambda p: _jpeg(p, 30),
    "a third of the size": lambda p: p.resize((p.width // 3, p.height // 3)),
    "brighter": lambda p: ImageEnhance.Brightness(p).enhance(1.3),
    "darker": lambda p: ImageEnhance.Brightness(p).enhance(0.7),
    "more contrast": lambda p: ImageEnhance.Contrast(p).enhance(1.4),
    "grey": lambda p: p.convert("L"),
    "mirrored": ImageOps.mirror,
    "turned by two degrees": lambda p: p.rotate(2),
    "cropped by a tenth all round": lambda p: _crop(p, 0.1, 0.1, 0.9, 0.9),
    "without a strip": lambda p: _crop(p, 0.1, 0, 1, 1),
    "a corner cut": lambda p: _crop(p, 0.2, 0.2, 1, 1),
    "cropped, brighter, saved again": lambda p: _jpeg(
        ImageEnhance.Brightness(_crop(p, 0.03, 0, 0.97, 0.94)).enhance(1.2), 50
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_copy_is_near_whichever_of_the_two_is_the_original(change: Change) -> None:
    for seed in range(3):
        scene = _scene(seed)
        one, other = _hashes(scene)[None], _hashes(change(scene))[None]
        assert distances(one, other)[0, 0] <= NEAR_BITS
        assert distances(other, one)[0, 0] <= NEAR_BITS


def test_different_pictures_are_far_from_each_other() -> None:
    hashes = np.stack([_hashes(_scene(seed)) for seed in range(30)])
    apart = distances(hashes, hashes)[np.triu_indices(30, 1)]
    assert apart.min() > NEAR_BITS


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_the_smallest_photos_have_hashes_too(size: tuple[int, int]) -> None:
    assert picture_hashes(np.zeros((*size, 3), np.uint8)).shape == picture_hashes(np.ones((60, 80, 3), np.uint8)).shape


def _photo(name: str, split: str, picture: Image.Image, digest: str = "") -> Photo:
    return Photo(Where(name), split, (240, 320), digest or name, _hashes(picture))


def _found(*photos: Photo) -> list[Finding]:
    return list(near_duplicate_findings(photos, Where("set")))


def test_a_warning_names_both_files_both_splits_and_the_distance() -> None:
    scene = _scene(1)
    (finding,) = _found(
        _photo("b.jpg", "test", CHANGES["brighter"](scene)),
        *(_photo("a.jpg", "train", scene), _photo("c.jpg", "train", _scene(2)), _photo("d.jpg", "val", _scene(3))),
    )
    assert (finding.level, finding.code, finding.where) == ("warning", "near-duplicate", Where("b.jpg"))
    for word in ("a.jpg", "'train'", "'test'", "of 256 bits differ"):
        assert word in finding.message


def test_exact_copies_in_two_splits_are_left_to_their_own_finding() -> None:
    scene = _scene(1)
    assert _found(_photo("a.jpg", "train", scene, "same"), _photo("b.jpg", "test", scene, "same")) == []


@pytest.mark.parametrize("split", ["train", ""])
def test_copies_inside_a_split_are_one_summary(split: str) -> None:
    scenes = [_scene(1), CHANGES["darker"](_scene(1)), CHANGES["grey"](_scene(1)), _scene(2)]
    (finding,) = _found(*(_photo(f"{number}.jpg", split, scene) for number, scene in enumerate(scenes)))
    assert finding.where == Where("set")
    assert finding.message.startswith("3 photos")


def test_five_thousand_photos_are_compared_in_seconds() -> None:
    words = np.random.default_rng(0).integers(0, 2**63, (5000, 1, 4), np.int64).astype(np.uint64)
    started = time.perf_counter()
    assert distances(words, words).shape == (5000, 5000)
    # a loop in Python over 12 million pairs takes minutes
    assert time.perf_counter() - started < 30


@pytest.mark.kit
def test_real_photos_are_no_near_duplicates_and_their_copies_are(kit: Path) -> None:
    files = sorted((kit / "datasets/pets-cat-dog/test").glob("*.jpg")) + sorted((kit / "photos").rglob("*.jpg"))
    pictures = [Image.fromarray(decode_photo(file.read_bytes())) for file in files]
    originals = np.stack([_hashes(picture) for picture in pictures])
    apart = distances(originals, originals)[np.triu_indices(len(files), 1)]
    assert apart.min() > NEAR_BITS
    for name in ("JPEG quality 30", "brighter", "cropped by a tenth all round", "a corner cut"):
        copies = np.stack([_hashes(CHANGES[name](picture)) for picture in pictures[::5]])
        assert np.diag(distances(originals[::5], copies)).max() <= NEAR_BITS
