"""Labels of all photos ▶ findings: unknown ones, misspelt ones, what a label table makes of them; splits' classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from maskserve.training.datasets.findings import Finding, Where
from maskserve.training.datasets.labels import LabelTable, closest, spelling_key
from maskserve.training.datasets.manifest import Manifest

FAR_COMMONER = 5
"""A label is taken for a misspelling when a similar one occurs this many times as often."""


def label_findings(places: Sequence[tuple[Where, str]], labels: LabelTable | None, where: Where) -> Iterator[Finding]:
    """Labels that are not in the table, or without one, rare labels that look like a common one.

    Args:
        where: of what is said once for a label and not for each of its places.
    """
    counts = Counter(label for _, label in places)
    if labels is not None:
        yield from _unknown(places, labels)
        yield from _relabelled(counts, labels, where)
        return
    suspects = _misspelt(counts)
    for place, label in places:
        if label in suspects:
            text = f"the label {label!r} is rare; did you mean {suspects[label]!r}?"
            yield Finding("warning", "misspelt-label", place, text)


def split_findings(manifests: Mapping[str, Manifest]) -> Iterator[Finding]:
    """Splits whose classes are not those of the training split, in its order: a training refuses them."""
    for manifest in manifests.values() if "train" in manifests else ():
        ours, wanted = manifest.class_names, manifests["train"].class_names
        if ours != wanted:
            text = (
                f"has the classes {', '.join(ours)}, but the training split has {', '.join(wanted)}; all splits need "
                "the same classes in the same order, and `maskserve data import` of their folder makes them so"
            )
            yield Finding("error", "split-classes", Where(str(manifest.path)), text)


def _unknown(places: Sequence[tuple[Where, str]], labels: LabelTable) -> Iterator[Finding]:
    for where, label in places:
        if label not in labels.classes:
            meant = next(iter(closest(label, labels.classes)), None)
            question = f"; did you mean {meant!r}?" if meant else ""
            yield Finding("error", "unknown-label", where, f"the label {label!r} is not in the label list{question}")


def _relabelled(counts: Mapping[str, int], labels: LabelTable, where: Where) -> Iterator[Finding]:
    for label, count in counts.items():
        name = labels.classes.get(label, label)
        if name != label:
            becomes = f"become {name!r}" if name else "are left out"
            text = f"the {count} labelled {label!r} {becomes} when --fix or the import gets this label table"
            yield Finding("warning", "relabelled", where, text)


def _misspelt(counts: Mapping[str, int]) -> dict[str, str]:
    """Suspicious label ─▶ what was probably meant."""
    suspects: dict[str, str] = {}
    for label, count in counts.items():
        others = [other for other in counts if other != label]
        commoner = [other for other in others if counts[other] >= FAR_COMMONER * count]
        same_key = [o for o in others if spelling_key(o) == spelling_key(label) and counts[o] > count]
        meant = next(iter([*same_key, *closest(label, commoner)]), None)
        if meant is not None:
            suspects[label] = meant
    return suspects
