"""A photo and its answers ─▶ a picture for people: one overlay, or two side by side.

Each drawing holds several copies of the decoded photo (36 MB for 12 megapixels), so only a few run at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from maskserve.gateway import problems
from maskserve.gateway.dispatch import Answer
from maskserve.imaging.decode import decode_rgb
from maskserve.imaging.overlay import draw_overlay, encode_picture, side_by_side

PictureFormat = Literal["png", "jpeg"]


class Easel:
    """Draws at most `places` pictures at the same time; the others wait until their deadline. Thread-safe."""

    def __init__(self, places: int) -> None:
        self._places = threading.Semaphore(places)

    def overlay(self, photo: bytes, answer: Answer, kind: PictureFormat, deadline: float) -> bytes:
        """The photo with the answer's instances drawn in, as a file. Raises RequestError, Problem (503)."""
        with self._place(answer.arm, deadline):
            return encode_picture(draw_overlay(decode_rgb(photo), answer.segmentation), kind)

    def comparison(self, photo: bytes, left: Answer, right: Answer, kind: PictureFormat, deadline: float) -> bytes:
        """Both overlays beside each other under their arms' names, as a file. Raises as `overlay`."""
        with self._place(left.arm, deadline):
            pixels = decode_rgb(photo)
            panels = [(*_caption(one), draw_overlay(pixels, one.segmentation)) for one in (left, right)]
            del pixels
            return encode_picture(side_by_side(panels), kind)

    @contextmanager
    def _place(self, arm: str, deadline: float) -> Iterator[None]:
        if not self._places.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise problems.unavailable("too_many_requests", "Too many pictures are being drawn; ask for JSON.", arm)
        try:
            yield
        finally:
            self._places.release()


def _caption(answer: Answer) -> tuple[str, str]:
    """(title, subtitle) of one side."""
    segmentation = answer.segmentation
    found = f"{len(segmentation.instances)} found"
    return (
        f"{answer.arm}: {segmentation.model.name}",
        f"{found} · {segmentation.coverage.total:.1%} covered · {answer.call_ms:.0f} ms",
    )
