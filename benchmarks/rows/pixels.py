"""Overlays, masks as RLE, and reading a 12-megapixel photo."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import models
from benchmarks.bench import Bench
from benchmarks.results import Claim, Row, ratio_row
from benchmarks.rows import Group
from benchmarks.subject import Subject

SIZE = (800, 1333)
SHORT_SIDE = 800
GREY_LEVELS = 0.3
OURS = "maskserve"
Told = Sequence[Sequence[Mapping[str, Any]]]
"""What the peers, and then ours, told in each round."""

_OVERLAY = Claim("pixels.overlay", "overlay, 10 instances, 1333×800", "Detectron2's Visualizer", 60.0)
_RLE = Claim("pixels.rle", "masks as RLE, 10 instances, 1333×800", "paste_masks_in_image + pycocotools", 5.0)
_DECODE = Claim("pixels.decode", "12-MP JPEG ─▶ 800 px", "Pillow, full decode + resize", 4.0)
_FUNCTIONS = {_OVERLAY.name: "overlay", _RLE.name: "rle", _DECODE.name: "decode_and_resize"}


def groups() -> list[Group]:
    return [Group("pictures and masks", [_OVERLAY, _RLE, _DECODE], _measure)]


def _measure(bench: Bench, claims: Sequence[Claim]) -> Iterator[Row]:
    title = "pictures and masks"
    arguments = {claim.name: _arguments(bench, claim) for claim in claims}
    wanted = {
        side: Subject(
            "benchmarks.subject:several",
            steps={claim.name: (f"{module}:{_FUNCTIONS[claim.name]}", arguments[claim.name]) for claim in claims},
        )
        for side, module in {"peers": "benchmarks.peers.drawing", OURS: "benchmarks.ours.pixels"}.items()
    }
    with bench.subjects(wanted, title=title) as steps:
        turns = bench.turns(steps, title=title, warm_ups=2)
    for claim in claims:
        told = [[turn.told[claim.name] for turn in turns[side]] for side in wanted]
        peer, ours = ([one["ms"] for one in of_side] for of_side in told)
        note = _NOTES.get(claim.name, lambda _bench, _told: "")(bench, told)
        yield ratio_row(claim, peer, ours, (claim.against, OURS), note)


def _arguments(bench: Bench, claim: Claim) -> dict[str, Any]:
    if claim is _DECODE:
        return {"photo": bench.large_photo, "short_side": SHORT_SIDE}
    path = bench.scratch / "scene.npz"
    if not path.is_file():
        from benchmarks.scene import make_scene
        from maskserve.imaging.decode import decode_rgb

        make_scene(decode_rgb(bench.photo.read_bytes()), SIZE, models.INSTANCES).write(path)
    return {"scene": path}


def _identical(_bench: Bench, told: Told) -> str:
    """How many of the instances have the same bytes."""
    theirs, own = (of_side[-1]["counts"] for of_side in told)
    return f"{sum(a == b for a, b in zip(theirs, own, strict=True))} of {len(own)} byte-identical"


def _difference(bench: Bench, _told: Told) -> str:
    """How far the pixels are from Pillow's."""
    from benchmarks.ours.pixels import network_pixels
    from benchmarks.peers.drawing import pillow_pixels

    data = bench.large_photo.read_bytes()
    theirs, own = pillow_pixels(data, SHORT_SIDE), network_pixels(data, SHORT_SIDE)
    apart = float(np.abs(theirs.astype(np.int16) - own.astype(np.int16)).mean())
    return f"mean difference {apart:.2f} grey levels (wanted: ≤ {GREY_LEVELS})"


_NOTES: Mapping[str, Callable[[Bench, Told], str]] = {
    _RLE.name: _identical,
    _DECODE.name: _difference,
}
