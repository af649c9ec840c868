"""Photos that are in a set twice: the same pixels, or the same picture re-encoded, brightened, mirrored, cropped.

    photo ▶ grey thumbnail ▶ itself, its mirror image and 24 windows of it ▶ a perceptual hash of each
    hash of a whole photo against every hash of another, and the other way round ▶ smallest number of differing bits

The windows are what a crop would have kept; a hash alone notices a crop of a tenth. The hash is imagehash's `phash`
(signs of the low frequencies of a 64 × 64 cosine transform) with 256 bits. docs/data-check.md has the measurements.

Shape shorthand: N photos, V hashes a photo, 4 words of 64 bits a hash.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import product

import cv2
import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskserve.training.datasets.coco import SPLITS
from maskserve.training.datasets.findings import Finding, Where
from maskserve.training.datasets.survey import Photo

Words = NDArray[np.uint64]

NEAR_BITS = 72
"""Of 256. Different photos of the kit differ in 84 bits or more, the nearest of 52,003 pairs; chance gives 128."""
_SIDE = 16
_THUMBNAIL_PX = 128
_CUTS = ((0, 1), (0, 0.9), (0.1, 1), (0.05, 0.95)), ((0, 0.8), (0.1, 0.9), (0.2, 1))
"""First and last share of width and of height that a window keeps, for light crops and for stronger ones."""
_WINDOWS = tuple(window for cuts in _CUTS for window in product(cuts, cuts) if window != ((0, 1), (0, 1)))
_BLOCK = 32
"""Photos compared with all others at a time: bounds the memory."""


def picture_hashes(photo: NDArray[np.uint8]) -> Words:
    """(V, 4) hashes of an RGB uint8 photo (H, W, 3): the whole, its mirror image, its windows."""
    height, width = photo.shape[:2]
    scale = _THUMBNAIL_PX / max(height, width)
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    grey = cv2.resize(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), shape, interpolation=cv2.INTER_AREA)
    views = [grey, grey[:, ::-1], *(_window(grey, *window) for window in _WINDOWS)]
    return np.stack([_hash(view) for view in views])


def _window(grey: NDArray, xs: tuple[float, float], ys: tuple[float, float]) -> NDArray:
    (left, right), (top, bottom) = (np.round(np.multiply(xs, grey.shape[1])), np.round(np.multiply(ys, grey.shape[0])))
    window = grey[int(top) : int(bottom), int(left) : int(right)]
    return window if window.size else grey


def _hash(grey: NDArray) -> Words:
    bits = imagehash.phash(Image.fromarray(np.ascontiguousarray(grey)), hash_size=_SIDE).hash
    return np.packbits(bits).view(np.uint64)


def distances(one: Words, other: Words) -> NDArray[np.uint16]:
    """Differing bits (N, M), 0..256, between photos of hashes (N, V, 4) and (M, V, 4), the nearest views counting."""
    nearest = np.full((len(one), len(other)), _SIDE * _SIDE, np.uint16)
    for start in range(0, len(one), _BLOCK):
        rows = slice(start, start + _BLOCK)
        block = nearest[rows]
        _keep_nearer(block, one[rows, 0], other[:, 0])
        for view in range(1, one.shape[1]):
            _keep_nearer(block, one[rows, 0], other[:, view])
            _keep_nearer(block, one[rows, view], other[:, 0])
    return nearest


def _keep_nearer(nearest: NDArray[np.uint16], one: Words, other: Words) -> None:
    """Lower (N, M) bit counts to those between hashes (N, 4) and (M, 4), where these are nearer."""
    bits = np.zeros_like(nearest)
    for word in range(one.shape[1]):
        bits += np.bitwise_count(one[:, None, word] ^ other[None, :, word])
    np.minimum(nearest, bits, out=nearest)


def duplicate_findings(photos: Iterable[Photo]) -> Iterator[Finding]:
    """Photos with the same pixels in more than one split: what is learnt must not be examined."""
    first: dict[str, Photo] = {}
    for photo in photos:
        other = first.setdefault(photo.digest, photo)
        if other.split != photo.split:
            text = f"the same photo is in {photo.split!r} and in {other.split!r} ({other.where}); keep it in one split"
            yield Finding("error", "duplicate-photo", photo.where, text)


def near_duplicate_findings(photos: Sequence[Photo], where: Where) -> Iterator[Finding]:
    """Each photo that looks like one of another split, and for every split one summary of those inside it.

    Exact copies in two splits are `duplicate-photo`, an error, and not told here again.
    """
    by_split: defaultdict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        by_split[photo.split].append(photo)
    splits = sorted(by_split, key=lambda split: SPLITS.index(split) if split in SPLITS else len(SPLITS))
    for place, split in enumerate(splits):
        earlier = [photo for other in splits[:place] for photo in by_split[other]]
        if earlier:
            yield from _across(by_split[split], earlier)
    for split in splits:
        yield from _within(by_split[split], split, where)


def _across(photos: Sequence[Photo], earlier: Sequence[Photo]) -> Iterator[Finding]:
    differing = distances(_stacked(photos), _stacked(earlier))
    digests = np.array([photo.digest for photo in earlier])
    for photo, row in zip(photos, differing, strict=True):
        near = np.flatnonzero((row <= NEAR_BITS) & (digests != photo.digest))
        if len(near):
            nearest = near[np.argmin(row[near])]
            other = earlier[nearest]
            more = f", and like {len(near) - 1} more" if len(near) > 1 else ""
            text = (
                f"looks like {other.where} in {other.split!r} ({row[nearest]} of 256 bits differ){more}, and is itself "
                f"in {photo.split!r}; keep pictures of one scene in one split"
            )
            yield Finding("warning", "near-duplicate", photo.where, text)


def _within(photos: Sequence[Photo], split: str, where: Where) -> Iterator[Finding]:
    """Whole photos and mirror images only: inside a split a copy wastes labour and spoils no figure."""
    hashes = _stacked(photos)[:, :2]
    differing = distances(hashes, hashes)
    np.fill_diagonal(differing, _SIDE * _SIDE)
    near = np.flatnonzero(differing.min(1) <= NEAR_BITS)
    if len(near):
        first = near[np.argmin(differing[near].min(1))]
        other = photos[int(np.argmin(differing[first]))]
        pair = f"{photos[first].where} and {other.where} ({differing[first].min()} of 256 bits differ)"
        advice = "they add little to learn from" if split else "keep pictures of one scene in one split"
        text = f"{len(near)} photos{f' of {split!r}' * bool(split)} look like another, first of all {pair}; {advice}"
        yield Finding("warning", "near-duplicate", where, text)


def _stacked(photos: Sequence[Photo]) -> Words:
    return np.stack([photo.hashes for photo in photos])
