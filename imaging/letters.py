"""Text ─▶ pieces that recur: digits, and what is between them ─▶ each rendered once ─▶ a line to write on plates.

Class names are the same in every picture, and any score or coverage is made of ten digits: so hardly a letter is drawn
twice, and no picture is copied to Pillow and back. Lines are kept, too: a share of the picture has a thousand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from maskserve.imaging.fonts import Font

INK_FROM = 128
"""Levels below are the plate on which the letters are written (imaging.paint), 255 is a pixel full of ink."""
_PIECE = re.compile(r"\d|\D+")


@dataclass(frozen=True, eq=False)
class Line:
    """Some letters beside each other; only to be read."""

    ink: NDArray[np.uint8]
    """uint8 (h, width + 2 overhang): 0 where they are not, else from `INK_FROM` up; h is the same for a whole font."""
    width: int
    """px from where they start to where more would go on."""
    overhang: int
    """px of `ink` before the start, and after the end."""


@lru_cache(maxsize=256)  # 2 kB for a name on a small photo, 40 kB at 12 megapixels
def line(text: str, of: Font) -> Line:
    """The text in that font."""
    pieces = [_rendered(piece, of) for piece in _PIECE.findall(text)]
    ascent, descent = of.getmetrics()
    width, overhang = sum(piece.width for piece in pieces), _overhang(of)
    ink = np.zeros((ascent + descent, width + 2 * overhang), np.uint8)
    left = 0
    for piece in pieces:
        place = ink[:, left : left + piece.ink.shape[1]]
        np.maximum(place, piece.ink, out=place)
        left += piece.width
    return Line(ink, width, overhang)


@lru_cache(maxsize=512)
def _rendered(text: str, of: Font) -> Line:
    ascent, descent = of.getmetrics()
    width, overhang = round(of.getlength(text)), _overhang(of)
    canvas = Image.new("L", (width + 2 * overhang, ascent + descent))
    ImageDraw.Draw(canvas).text((overhang, 0), text, font=of, fill=255)
    cover = np.asarray(canvas) >> np.uint8(1)
    return Line(np.where(cover, cover + np.uint8(INK_FROM), np.uint8(0)), width, overhang)


def _overhang(of: Font) -> int:
    return int(of.getmetrics()[0] // 4)
