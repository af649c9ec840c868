"""Overlays, masks as RLE, and reading a 12-megapixel photo."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import models
from benchmarks.bench import Bench
from benchmarks.results import Claim, Row, ratio_row
from benchmarks.rows import Group
from benchmarks.subject import Subject, Turn

SIZE = (800, 1333)
SHORT_SIDE = 800
GREY_LEVELS = 0.3

_OVERLAY = Claim("pixels.overlay", "overlay, 10 instances, 1333×800", "Detectron2's Visualizer", 60.0)
_RLE = Claim("pixels.rle", "masks as RLE, 10 instances, 1333×800", "paste_masks_in_image + pycocotools", 5.0)
_DECODE = Claim("pixels.decode", "12-MP JPEG ─▶ 800 px", "Pillow, full decode + resize", 4.0)
_FUNCTIONS = {_OVERLAY.name: "overlay", _RLE.name: "rle", _DECODE.name: "decode_and_resize"}


def groups() -> list[Group]:
    return [Group("pictures and masks", [_OVERLAY, _RLE, _DECODE], _measure)]


def _measure(bench: Bench, claims: Sequence[Claim]) -> Iterator[Row]:
    for claim in claims:
        function = _FUNCTIONS[claim.name]
        arguments = _arguments(bench, claim)
        wanted = {
            claim.against: Subject(f"benchmarks.peers.drawing:{function}", **arguments),
            "maskserve": Subject(f"benchmarks.ours.pixels:{function}", **arguments),
        }
        with bench.subjects(wanted, title=claim.what) as steps:
            turns = bench.turns(steps, title=claim.what, warm_ups=2)
        peer, ours = ([turn.ms for turn in turns[name]] for name in wanted)
        note = _NOTES.get(claim.name, lambda _bench, _turns: "")(bench, turns)
        yield ratio_row(claim, peer, ours, (claim.against, "maskserve"), note)


def _arguments(bench: Bench, claim: Claim) -> dict[str, Any]:
    if claim is _DECODE:
        return {"photo": bench.large_photo, "short_side": SHORT_SIDE}
    path = bench.scratch / "scene.npz"
    if not path.is_file():
        from benchmarks.scene import make_scene
        from maskserve.imaging.decode import decode_rgb

        make_scene(decode_rgb(bench.photo.read_bytes()), SIZE, models.INSTANCES).write(path)
    return {"scene": path}


def _identical(_bench: Bench, turns: Mapping[str, Sequence[Turn]]) -> str:
    """How many of the instances have the same bytes."""
    theirs, own = (taken[-1].told["counts"] for taken in turns.values())
    return f"{sum(a == b for a, b in zip(theirs, own, strict=True))} of {len(own)} byte-identical"


def _difference(bench: Bench, _turns: Mapping[str, Sequence[Turn]]) -> str:
    """How far the pixels are from Pillow's."""
    from benchmarks.ours.pixels import network_pixels
    from benchmarks.peers.drawing import pillow_pixels

    data = bench.large_photo.read_bytes()
    theirs, own = pillow_pixels(data, SHORT_SIDE), network_pixels(data, SHORT_SIDE)
    apart = float(np.abs(theirs.astype(np.int16) - own.astype(np.int16)).mean())
    return f"mean difference {apart:.2f} grey levels (wanted: ≤ {GREY_LEVELS})"


_NOTES: Mapping[str, Callable[[Bench, Mapping[str, Sequence[Turn]]], str]] = {
    _RLE.name: _identical,
    _DECODE.name: _difference,
}
