"""Divides labelled photos between splits so that each split has its share of every class.

Greedy iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data",
ECML PKDD 2011): the rarest class's photos are dealt first, each to the split that still lacks most of that class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np


def stratified(photos: Sequence[Set[str]], fractions: Mapping[str, float], seed: int) -> list[str]:
    """The split of each photo.

    Args:
        photos: the class names on each photo; a photo without any counts as a class of its own.
        fractions: split ─▶ its share, 0..1, together 1; on a tie the earlier split is served first, and the first one
            has a photo of every class, however few there are.
        seed: same photos, fractions and seed, same splits.
    """
    labels = [photo or frozenset({""}) for photo in photos]
    order = np.random.default_rng(seed).permutation(len(photos)).tolist()
    classes = sorted({name for photo in labels for name in photo})
    photos_of = {name: [i for i in order if name in labels[i]] for name in classes}
    open_photos = {name: list(own) for name, own in photos_of.items()}
    wanted = {split: {name: share * len(open_photos[name]) for name in classes} for split, share in fractions.items()}
    room = {split: share * len(photos) for split, share in fractions.items()}
    chosen: dict[int, str] = {}
    while len(chosen) < len(photos):
        rarest = min((name for name in classes if open_photos[name]), key=lambda name: len(open_photos[name]))
        photo = open_photos[rarest][0]
        split = max(fractions, key=lambda s: (round(wanted[s][rarest], 9), round(room[s], 9)))
        chosen[photo] = split
        room[split] -= 1
        for name in labels[photo]:
            wanted[split][name] -= 1
            open_photos[name].remove(photo)
    first = next(iter(fractions))
    for name, own in photos_of.items():
        if name and all(chosen[i] != first for i in own):  # its few photos were dealt for the sake of other classes
            chosen[own[0]] = first
    return [chosen[i] for i in range(len(photos))]
