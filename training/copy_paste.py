"""Simple copy-paste: instances of one training photo on another, for data sets with few photos.

    photo, donor ─▶ some of the donor's instances ─▶ paste at a random place ─▶ photo with old and new labels

Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation", CVPR 2021: pixels
are copied without blending, occluded masks lose what is hidden. Random numbers come from numpy's global generator, as
Detectron2's augmentations take theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.structures import BoxMode, polygons_to_bitmask
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

Record = dict[str, Any]
Pixels = NDArray[np.uint8]
Masks = NDArray[np.bool_]

SCALES = (0.5, 1.25)
"""Pasted instances are so many times the size that they have in training."""
KEEP_SHARE = 0.1
"""An instance of which less is left, behind a pasted one or inside the photo, loses its label."""


def paste_instances(photo: Record, donor: Record) -> Record:
    """`photo` with a random subset of the donor's instances at a random place, together as they are in the donor.

    Both are records with `pixels`, uint8 (H, W, 3), and annotations in the frame of these pixels (polygons or RLE).
    A group smaller than the photo lies inside it; a larger one is cut off at its edges.
    """
    own = _bitmasks(photo["annotations"], photo["pixels"].shape[:2])
    chosen = _subset(donor["annotations"])
    new = _bitmasks(chosen, donor["pixels"].shape[:2])
    if not new.any():
        return photo
    offset = _random_offset(_union(new), photo["pixels"].shape[:2])
    pixels, visible, placed = paste(photo["pixels"], own, donor["pixels"], new, offset)
    annotations = [*_kept(photo["annotations"], own, visible), *_kept(chosen, new, placed)]
    return {**photo, "pixels": pixels, "annotations": annotations}


def paste(
    pixels: Pixels, masks: Masks, donor_pixels: Pixels, donor_masks: Masks, offset: tuple[int, int]
) -> tuple[Pixels, Masks, Masks]:
    """What the donor's masks cover, copied on `pixels` with the donor's corner at `offset` (top, left) px, any sign.

    Args:
        pixels, masks: (H, W, 3) and (N, H, W).
        donor_pixels, donor_masks: (h, w, 3) and (M, h, w).

    Returns:
        New pixels (H, W, 3), what is still seen of `masks` (N, H, W), the donor's masks in this photo (M, H, W).
    """
    spans = [_overlap(*span) for span in zip(offset, donor_pixels.shape[:2], pixels.shape[:2], strict=True)]
    here, there = tuple(span[0] for span in spans), tuple(span[1] for span in spans)
    placed = np.zeros((len(donor_masks), *pixels.shape[:2]), np.bool_)
    placed[:, *here] = donor_masks[:, *there]
    cover = _union(placed)
    pixels = pixels.copy()
    pixels[here][cover[here]] = donor_pixels[there][cover[here]]
    return pixels, masks & ~cover, placed


def _overlap(offset: int, length: int, limit: int) -> tuple[slice, slice]:
    """Where a piece of `length` at `offset` lies within 0..limit, and which part of the piece that is."""
    first, end = np.clip([offset, offset + length], 0, limit).tolist()
    return slice(first, end), slice(first - offset, end - offset)


def _union(masks: Masks) -> Masks:
    return np.asarray(masks.any(axis=0))


def _subset(annotations: Sequence[Record]) -> list[Record]:
    """Each with a probability of one half, at least one."""
    if not annotations:
        return []
    wanted = np.random.random(len(annotations)) < 0.5
    wanted[np.random.randint(len(annotations))] = True
    return [annotation for annotation, want in zip(annotations, wanted, strict=True) if want]


def _random_offset(group: Masks, size: tuple[int, int]) -> tuple[int, int]:
    """Where the donor's corner goes so that the box around `group` (h, w) is inside a photo of `size`, or covers it."""
    left, top, width, height = cv2.boundingRect(group.astype(np.uint8))
    places = []
    for first, length, limit in ((top, height, size[0]), (left, width, size[1])):
        low, high = sorted((0, limit - length))
        places.append(int(np.random.randint(low, high + 1)) - first)
    return places[0], places[1]


def _bitmasks(annotations: Sequence[Record], size: tuple[int, int]) -> Masks:
    """(N, H, W) of polygons or RLE in a photo of `size`."""
    masks = np.zeros((len(annotations), *size), np.bool_)
    for mask, annotation in zip(masks, annotations, strict=True):
        segment = annotation["segmentation"]
        mask[:] = polygons_to_bitmask(segment, *size) if isinstance(segment, list) else coco_mask.decode(segment)
    return masks


def _kept(annotations: Sequence[Record], before: Masks, after: Masks) -> Iterator[Record]:
    """Labels of what is left: RLE and its box (XYXY px); a mask that nothing happened to keeps its own."""
    for annotation, old, new in zip(annotations, before, after, strict=True):
        if old.shape == new.shape and np.array_equal(old, new):
            yield annotation
        elif new.any() and new.sum() >= KEEP_SHARE * old.sum():
            left, top, width, height = cv2.boundingRect(new.astype(np.uint8))
            box = [float(left), float(top), float(left + width), float(top + height)]
            rle = coco_mask.encode(np.asfortranarray(new, dtype=np.uint8))
            yield {**annotation, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "segmentation": rle}
