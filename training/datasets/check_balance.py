"""Objects of all photos ▶ findings: classes too rare to be learnt, objects too small to be seen in training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskserve.training.datasets.findings import Finding, Where
from maskserve.training.datasets.survey import Survey, Thing

FEWEST = 10
RAREST = 1 / 20
"""Of the commonest class's objects."""
TINY_PX = 8
"""Two cells of the finest feature map, whose cells are 4 px wide."""
TINY_SHARE = 0.1
CONFIGS = Path(__file__).parents[1] / "configs" / "presets"


@dataclass(frozen=True)
class PresetSize:
    """How large a preset's training shows a photo, at the most."""

    preset: str
    short_side_px: int
    long_side_px: int

    def scale(self, size: tuple[int, int]) -> float:
        """By which a photo of `size` (height, width) is resized, Detectron2's ResizeShortestEdge."""
        return min(self.short_side_px / min(size), self.long_side_px / max(size))


def preset_sizes() -> list[PresetSize]:
    """Of every preset that says how large photos are, the smallest first."""
    from fvcore.common.config import CfgNode

    sizes = []
    for file in CONFIGS.glob("*.yaml"):
        given: Mapping[str, Any] = CfgNode.load_yaml_with_base(str(file)).get("INPUT", {})
        if "MIN_SIZE_TRAIN" in given:
            sizes.append(PresetSize(file.stem, max(_numbers(given["MIN_SIZE_TRAIN"])), given["MAX_SIZE_TRAIN"]))
    return sorted(sizes, key=lambda size: size.short_side_px)


def _numbers(value: Any) -> list[int]:
    """YAML reads Detectron2's "(480, 512)" as a text."""
    return [int(word) for word in str(value).strip("()[] ,").split(",")]


def imbalance_findings(survey: Survey, where: Where) -> Iterator[Finding]:
    """One finding for each class that is rare where it is learnt, or missing from a split; an error where all are."""
    learnt_in = "train" if "train" in survey.splits else None
    counts = survey.counts(learnt_in)
    commonest = max(counts.values(), default=0)
    if survey.photos and not commonest:
        text = f"nothing to learn from is labelled{' in the training split' if learnt_in else ''} (crowds are not)"
        yield Finding("error", "no-labels", where, f"{text}; label some objects")
    by_split = {split: survey.counts(split) for split in survey.splits}
    for name, count in counts.items():
        faults = []
        missing = [split for split, found in by_split.items() if not found[name]]
        objects = f"has {count} {'object' if count == 1 else 'objects'}{' to learn from' if learnt_in else ''}"
        if 0 < count < FEWEST:
            faults.append(f"{objects}, fewer than {FEWEST}")
        elif 0 < count < RAREST * commonest:
            faults.append(f"{objects}, less than a twentieth of the commonest class's {commonest}")
        if count == 0 and not missing:
            faults.append("has no object")
        if missing:
            faults.append(f"is missing in {' and '.join(map(repr, missing))}")
        if faults:
            text = f"{name!r} {' and '.join(faults)}; label more of it, or merge it with another class (--labels)"
            yield Finding("warning", "class-imbalance", where, text)


def tiny_findings(survey: Survey, where: Where) -> Iterator[Finding]:
    """One finding for each class of which too many objects shrink below TINY_PX in the smallest preset."""
    by_class: defaultdict[str, list[Thing]] = defaultdict(list)
    for thing in survey.things:
        by_class[thing.class_name].append(thing)
    sizes = preset_sizes()
    for name, things in sorted(by_class.items()):
        shares = {size: _tiny_share(things, size) for size in sizes}
        if shares[sizes[0]] <= TINY_SHARE:
            continue
        told = ", ".join(f"{share:.0%} at {size.preset}'s {size.short_side_px} px" for size, share in shares.items())
        enough = next((size for size, share in shares.items() if share <= TINY_SHARE), None)
        advice = f"train with --preset {enough.preset}" if enough else "cut the photos into tiles, or take closer ones"
        text = f"many {name!r} have a side below {TINY_PX} px once the photo is resized for training: {told}; {advice}"
        yield Finding("warning", "tiny-objects", where, text)


def _tiny_share(things: list[Thing], size: PresetSize) -> float:
    return float(np.mean([min(thing.box_px) * size.scale(thing.photo_size) < TINY_PX for thing in things]))
