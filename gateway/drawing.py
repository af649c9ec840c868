"""A photo and its answers ─▶ a picture for people: one overlay, or two side by side.

Each drawing holds several copies of the decoded photo (36 MB for 12 megapixels), so only a few run at a time. Drawing
may take longer than finding, so requests for pictures are counted before they cost an arm anything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from maskserve.gateway import problems
from maskserve.gateway.dispatch import Answer
from maskserve.imaging.decode import decode_rgb
from maskserve.imaging.encode import encode_picture
from maskserve.imaging.overlay import paint_overlay, side_by_side

PictureFormat = Literal["png", "jpeg"]
_PANEL_PX = 1600
"""Longest side of one photo in a comparison, as in imaging.overlay.side_by_side."""
_TOO_MANY = "Too many pictures are being drawn; try again, or ask for JSON."


class Easel:
    """Draws at most `places` pictures at the same time; the others wait until their deadline. Thread-safe.

    Args:
        queue: requests for pictures that are let in, those included whose arm is still being asked.
    """

    def __init__(self, places: int, queue: int) -> None:
        self._places = threading.Semaphore(places)
        self._queue = threading.Semaphore(queue)

    @contextmanager
    def queue(self) -> Iterator[None]:
        """For a request that wants a picture, from before its arm is asked until it is drawn. Raises Problem (503)."""
        if not self._queue.acquire(blocking=False):
            raise problems.unavailable("too_many_requests", _TOO_MANY)
        try:
            yield
        finally:
            self._queue.release()

    def overlay(self, photo: bytes, answer: Answer, kind: PictureFormat, deadline: float) -> bytes:
        """The photo with the answer's instances drawn in, as a file. Raises RequestError, Problem (503)."""
        with self._place(deadline):
            return encode_picture(paint_overlay(decode_rgb(photo), answer.segmentation), kind)

    def comparison(self, photo: bytes, left: Answer, right: Answer, kind: PictureFormat, deadline: float) -> bytes:
        """Both overlays beside each other under their arms' names, as a file. Raises as `overlay`."""
        with self._place(deadline):
            # each overlay has the photo to itself and is shrunk before the next is drawn: less memory for large photos
            panels = [
                (*_caption(one), _fit(paint_overlay(decode_rgb(photo), one.segmentation))) for one in (left, right)
            ]
            return encode_picture(side_by_side(panels), kind)

    @contextmanager
    def _place(self, deadline: float) -> Iterator[None]:
        if not self._places.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise problems.unavailable("too_many_requests", _TOO_MANY)
        try:
            yield
        finally:
            self._places.release()


def _fit(image_rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (H, W, 3), no side longer than `_PANEL_PX`."""
    height, width = image_rgb.shape[:2]
    scale = _PANEL_PX / max(height, width)
    if scale >= 1:
        return image_rgb
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image_rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _caption(answer: Answer) -> tuple[str, str]:
    """(title, subtitle) of one side."""
    segmentation = answer.segmentation
    found = f"{len(segmentation.instances)} found"
    return (
        f"{answer.arm}: {segmentation.model.name}",
        f"{found} · {segmentation.coverage.total:.1%} covered · {answer.call_ms:.0f} ms",
    )
