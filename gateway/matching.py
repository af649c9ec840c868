"""Two answers for one photo ─▶ which instances are the same thing, and how much the answers differ. Pure.

Two instances match when they have the same class and their masks overlap enough. Pairs are taken greedily, the best
overlap first; that is a maximal, deterministic one-to-one matching, and, since a mask that overlaps two others by
more than half is rare, nearly always the best one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from maskserve.protos.types import Instance, MaskRle, Segmentation

IOU_TO_MATCH = 0.5

RleIou = Callable[[MaskRle, MaskRle], float]


@dataclass(frozen=True, slots=True)
class Match:
    """Instances `left` and `right` (indices into the two answers) show the same thing."""

    left: int
    right: int
    mask_iou: float


@dataclass(frozen=True, slots=True)
class Matching:
    matches: tuple[Match, ...]
    """Best overlap first."""
    only_left: tuple[int, ...]
    only_right: tuple[int, ...]

    @property
    def mean_mask_iou(self) -> float | None:
        """Over the matched pairs; None without any."""
        return sum(match.mask_iou for match in self.matches) / len(self.matches) if self.matches else None


def match_instances(
    left: Sequence[Instance], right: Sequence[Instance], rle_iou: RleIou, iou_to_match: float = IOU_TO_MATCH
) -> Matching:
    """One-to-one pairs of the same class with a mask IoU of at least `iou_to_match`; both sides need their masks."""
    candidates = sorted(
        (
            Match(i, j, overlap)
            for i, one in enumerate(left)
            for j, other in enumerate(right)
            if (overlap := _overlap(one, other, rle_iou)) >= iou_to_match
        ),
        key=lambda match: (-match.mask_iou, match.left, match.right),
    )
    taken_left: set[int] = set()
    taken_right: set[int] = set()
    matches = []
    for match in candidates:
        if match.left not in taken_left and match.right not in taken_right:
            matches.append(match)
            taken_left.add(match.left)
            taken_right.add(match.right)
    return Matching(
        tuple(matches),
        tuple(i for i in range(len(left)) if i not in taken_left),
        tuple(j for j in range(len(right)) if j not in taken_right),
    )


def coverage_difference(left: Segmentation, right: Segmentation) -> dict[str, float]:
    """Class name -> coverage of `right` minus coverage of `left`; a class that one side lacks counts as 0."""
    one, other = left.coverage.by_class, right.coverage.by_class
    return {name: other.get(name, 0.0) - one.get(name, 0.0) for name in sorted({*one, *other})}


def _overlap(one: Instance, other: Instance, rle_iou: RleIou) -> float:
    """Mask IoU; 0 for different classes and for boxes that cannot overlap (masks stay inside their boxes)."""
    if one.class_name != other.class_name or not (one.mask_rle and other.mask_rle and _boxes_meet(one, other)):
        return 0.0
    return rle_iou(one.mask_rle, other.mask_rle)


def _boxes_meet(one: Instance, other: Instance) -> bool:
    # one pixel of slack: a pasted mask's edge pixels may lie outside the box's fractional edge
    ax0, ay0, ax1, ay1 = one.box_xyxy
    bx0, by0, bx1, by1 = other.box_xyxy
    return ax0 - 1 <= bx1 and bx0 - 1 <= ax1 and ay0 - 1 <= by1 and by0 - 1 <= ay1
