"""Letters for pictures: Pillow's own font, so that no system font is needed; others only for letters that it lacks."""

from __future__ import annotations

from contextlib import suppress
from functools import cache, lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont

_WORLD_FONTS = ("NotoSansCJK-Regular.ttc", "PingFang.ttc", "msyh.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf")
"""System fonts for class names beyond ASCII; those with the most letters first."""


def font(size_px: float, text: str) -> Font:
    """The font of about that size which has the letters of `text`, as far as this machine has one."""
    size_px = max(8, round(size_px))  # whole sizes keep the letters apart
    return _loaded(None if text.replace("·", "").isascii() else _world_font(), size_px)


def fitting_font(text: str, size_px: float, width: float) -> Font:
    """The font in that size, or as much smaller as `text` needs to fit into `width` px."""
    wanted = font(size_px, text)
    length = wanted.getlength(text)
    return wanted if length <= width else font(size_px * width / length, text)


@lru_cache(maxsize=64)  # sizes follow the photos'
def _loaded(path: str | None, size_px: float) -> Font:
    loaded = ImageFont.truetype(path, size_px) if path else ImageFont.load_default(size_px)
    assert isinstance(loaded, Font)  # the other kind has no sizes: it is what `load_default()` loads without one
    return loaded


@cache
def _world_font() -> str | None:
    for name in _WORLD_FONTS:
        with suppress(OSError):
            return str(ImageFont.truetype(name).path)
    return None
