"""pixels + answer ─▶ filled and outlined masks ─▶ legend ─▶ labels ─▶ a picture; and pictures side by side.

All sizes follow the image's: a line that is one pixel on a thumbnail is seven on a 12-megapixel photo.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

import cv2
import numpy as np
from PIL import Image, ImageDraw

from maskserve.imaging.fonts import fitting_font, font
from maskserve.imaging.letters import line
from maskserve.imaging.paint import Field, Pixels, Rgb, depth, lay, lettered, outlined, plate, write
from maskserve.imaging.rle import decode_each_inside
from maskserve.protos.types import Instance, Segmentation

Box = tuple[int, int, int, int]
"""(x_min, y_min, x_max, y_max), px, the last two exclusive."""

COLOURS: tuple[Rgb, ...] = (
    (0, 158, 230),
    (255, 140, 0),
    (0, 190, 140),
    (225, 90, 170),
    (240, 215, 50),
    (120, 110, 235),
    (225, 70, 40),
    (150, 205, 60),
)
"""Told apart with any colour vision: the order of Okabe and Ito (2008), brightened for photos."""
_FILL = 0.42
_LETTERS = 15
"""Their size, px, at scale 1."""
_ROWS = 40
"""Of labels in a box that are tried for a free one."""
_SHADE = 0.75
"""Of the legend's panel."""
_INK: Rgb = (24, 26, 30)
_PAPER: Rgb = (250, 250, 248)
_PANEL_PX = 1600
"""Longest side of one picture in `side_by_side`."""


def class_colour(class_id: int) -> Rgb:
    """The colour of a class: the same in every picture, whatever else is in it."""
    return COLOURS[class_id % len(COLOURS)]


def draw_overlay(image_rgb: Pixels, segmentation: Segmentation, *, legend: bool = True, scores: bool = True) -> Pixels:
    """The image with its instances drawn in: uint8 (H, W, 3) RGB, a new array.

    Args, errors: as of `paint_overlay`.
    """
    return paint_overlay(np.array(image_rgb, np.uint8, order="C"), segmentation, legend=legend, scores=scores)


def paint_overlay(picture: Pixels, segmentation: Segmentation, *, legend: bool = True, scores: bool = True) -> Pixels:
    """Draws the instances into the picture itself and returns it: no copy, which has 36 MB at 12 megapixels.

    Args:
        picture: uint8 (H, W, 3) RGB, upright, C-contiguous; its size is the segmentation's.
        segmentation: the answer; instances without masks are drawn as boxes.
        legend: adds a panel that names classes, counts and coverage.
        scores: adds them to the labels; False for what a person labelled.

    Raises ValueError when picture and segmentation differ in size.
    """
    if picture.shape[:2] != tuple(segmentation.size):
        raise ValueError(f"the image is {picture.shape[:2]} (height, width), the answer is for {segmentation.size}")
    scale = _scale(picture)
    upwards = segmentation.instances[::-1]  # the best score is drawn last, on top
    masks = decode_each_inside([instance.mask_rle for instance in upwards if instance.mask_rle])
    for instance in upwards:
        if instance.mask_rle:
            _draw_mask(picture, instance, *next(masks), scale)
        else:
            _draw_box(picture, instance, scale)
    panel = _draw_legend(picture, segmentation, scale) if legend else None
    taken: list[Box] = [panel] if panel else []
    for instance in segmentation.instances:
        taken.append(_draw_label(picture, instance, scale, taken, scores=scores))
    return picture


def side_by_side(panels: Sequence[tuple[str, str, Pixels]]) -> Pixels:
    """Pictures of one photo beside each other, each under its title and subtitle: uint8 (H, W, 3) RGB.

    Args:
        panels: (title, subtitle, image_rgb) from left to right; scaled to one height, at most 1600 px a side.
    """
    height = min(int(image.shape[0] * min(1.0, _PANEL_PX / max(image.shape[:2]))) for _, _, image in panels)
    pictures = [_to_height(image, max(1, height)) for _, _, image in panels]
    scale = _scale(pictures[0])
    gap, bar = round(10 * scale), round(58 * scale)
    width = sum(picture.shape[1] for picture in pictures) + gap * (len(panels) + 1)
    canvas = Image.new("RGB", (width, height + bar + gap), _PAPER)
    draw = ImageDraw.Draw(canvas)
    left = gap
    for (title, subtitle, _), picture in zip(panels, pictures, strict=True):
        canvas.paste(Image.fromarray(picture), (left, bar))
        for text, size, top, ink in ((title, 20, 8, _INK), (subtitle, 15, 34, (95, 99, 106))):
            fitting = fitting_font(text, size * scale, picture.shape[1])
            draw.text((left, top * scale), text, font=fitting, fill=ink)
        left += picture.shape[1] + gap
    return np.array(canvas)


def _scale(picture: Pixels) -> float:
    """How much bigger than on a photo of about 800 × 600 px lines and letters are."""
    height, width = picture.shape[:2]
    return max(0.8, float(np.sqrt(height * width)) / 700)


def _draw_mask(picture: Pixels, instance: Instance, inside: Field, bounds: Box, scale: float) -> None:
    line_px = _line_px(scale)
    if inside.size:
        field, margin = depth(inside, line_px)
        palette = outlined(class_colour(instance.class_id), line_px, _FILL)
        lay(picture, field, bounds[0] - margin, bounds[1] - margin, palette)


def _draw_box(picture: Pixels, instance: Instance, scale: float) -> None:
    x_min, y_min, x_max, y_max = (round(value) for value in instance.box_xyxy)
    colour = class_colour(instance.class_id)
    cv2.rectangle(picture, (x_min, y_min), (x_max - 1, y_max - 1), colour, _line_px(scale), cv2.LINE_AA)


def _line_px(scale: float) -> int:
    return max(1, round(2 * scale))


def _draw_label(picture: Pixels, instance: Instance, scale: float, taken: Sequence[Box], *, scores: bool) -> Box:
    """Draws the chip at a free place near the box's top left corner and returns where it is."""
    text = f"{instance.class_name} {instance.score:.0%}" if scores else instance.class_name
    chip = _chip(text, scale, picture.shape[1])
    place = _free_place(instance, chip.shape, picture.shape, scale, taken)
    colour = class_colour(instance.class_id)
    lay(picture, chip, place[0], place[1], lettered(colour, _ink_on(colour)))
    return place


@lru_cache(maxsize=256)  # 3 kB on a small photo, 60 kB at 12 megapixels
def _chip(text: str, scale: float, most_px: int) -> Field:
    """A lettered plate, not wider than that if any letters fit; only to be read. A class has a hundred in all."""
    pad, height = round(6 * scale), round(21 * scale)
    letters = line(text, font(_LETTERS * scale, text))
    if letters.width > (room := most_px - 2 * pad):
        letters = line(text, fitting_font(text, _LETTERS * scale, room))
    chip = plate(height, letters.width + 2 * pad, round(5 * scale))
    write(chip, letters, pad, height // 2)
    return chip


def _free_place(
    instance: Instance, chip: tuple[int, ...], picture: tuple[int, ...], scale: float, taken: Sequence[Box]
) -> Box:
    """Where a chip of that shape covers no other: above the box, or in it, row by row; above it where all is taken."""
    x_min, y_min, _, y_max = instance.box_xyxy
    height, width = chip
    left, lowest = max(0, min(round(x_min), picture[1] - width)), max(0, picture[0] - height)

    def place(top: float) -> Box:
        inside = min(max(0, round(top)), lowest)
        return left, inside, left + width, inside + height

    pitch = height + 2 * scale
    rows = range(1, 1 + min(_ROWS, int((y_max - y_min) / pitch)))
    tops = chain((y_min - height - 3 * scale, y_min + 3 * scale), (y_min + row * pitch for row in rows))
    free = (there for there in map(place, tops) if not any(_overlap(there, other) for other in taken))
    return next(free, place(y_min - height - 3 * scale))


def _draw_legend(picture: Pixels, segmentation: Segmentation, scale: float) -> Box | None:
    """Draws the panel at the bottom left, if the image has room for it; returns where it is."""
    texts = _legend_rows(segmentation)
    of = font(_LETTERS * scale, "".join(name for _, name, _ in texts))
    rows = [(colour, line(name, of), line(share, of)) for colour, name, share in texts]
    pitch, margin, swatch = round(22 * scale), round(10 * scale), round(13 * scale)
    indent = margin + swatch + round(8 * scale)
    width = (
        indent + max(name.width for _, name, _ in rows) + max(share.width for _, _, share in rows) + round(22 * scale)
    )
    height = pitch * len(rows) + margin
    left, top = margin, picture.shape[0] - margin - height
    if left + width + margin > picture.shape[1] or top < margin:
        return None
    panel = plate(height, width, round(7 * scale))
    middles = range((margin + pitch) // 2, height, pitch)[: len(rows)]
    for (_, name, share), middle in zip(rows, middles, strict=True):
        write(panel, name, indent, middle)
        write(panel, share, width - margin - share.width, middle)
    lay(picture, panel, left, top, lettered(_INK, _PAPER, _SHADE))
    square = plate(swatch, swatch, round(3 * scale))
    for (colour, _, _), middle in zip(rows, middles, strict=True):
        if colour:
            lay(picture, square, left + margin, top + middle - swatch // 2, lettered(colour, _PAPER))
    return left, top, left + width, top + height


def _legend_rows(segmentation: Segmentation) -> list[tuple[Rgb | None, str, str]]:
    """(swatch, name, coverage): one row for each class in the picture, then the total."""
    counts = Counter((instance.class_id, instance.class_name) for instance in segmentation.instances)
    if not counts:
        return [(None, "nothing found", "")]
    cover = segmentation.coverage
    rows: list[tuple[Rgb | None, str, str]] = [
        (class_colour(class_id), f"{count} {name}", f"{cover.by_class.get(name, 0.0):.1%}")
        for (class_id, name), count in sorted(counts.items())
    ]
    return rows if len(rows) == 1 else [*rows, (None, "total", f"{cover.total:.1%}")]


def _ink_on(colour: Rgb) -> Rgb:
    red, green, blue = colour
    return _INK if 0.299 * red + 0.587 * green + 0.114 * blue > 115 else (255, 255, 255)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _to_height(image: Pixels, height: int) -> Pixels:
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    shrinks = height < image.shape[0]
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))
