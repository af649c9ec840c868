"""pixels + answer ─▶ filled masks, contours ─▶ labels ─▶ legend ─▶ a picture; and pictures side by side.

All sizes follow the image's: a line that is one pixel on a thumbnail is seven on a 12-megapixel photo.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from maskserve.imaging.decode import to_pixels
from maskserve.imaging.fonts import fitting_font, font
from maskserve.imaging.masks import decode_inside
from maskserve.protos.types import Instance, Segmentation

Rgb = tuple[int, int, int]
Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]

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
_OUTLINE_TOLERANCE = 0.25
"""The drawn line may leave the mask's edge by this share of its width: less than the staircase that it follows."""
_PNG = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB)
"""For photos 2.5 times as fast as compression level 3, and a little smaller (docs/benchmarks.md)."""
_INK: Rgb = (24, 26, 30)
_PAPER: Rgb = (250, 250, 248)
_PANEL_PX = 1600
"""Longest side of one picture in `side_by_side`."""


def class_colour(class_id: int) -> Rgb:
    """The colour of a class: the same in every picture, whatever else is in it."""
    return COLOURS[class_id % len(COLOURS)]


def draw_overlay(image_rgb: Pixels, segmentation: Segmentation, *, legend: bool = True, scores: bool = True) -> Pixels:
    """The image with its instances drawn in: uint8 (H, W, 3) RGB, a new array.

    Args:
        image_rgb: uint8 (H, W, 3), upright; its size is the segmentation's.
        segmentation: the answer; instances without masks are drawn as boxes.
        legend: adds a panel that names classes, counts and coverage.
        scores: adds them to the labels; False for what a person labelled.

    Raises ValueError when image and segmentation differ in size.
    """
    if image_rgb.shape[:2] != tuple(segmentation.size):
        raise ValueError(f"the image is {image_rgb.shape[:2]} (height, width), the answer is for {segmentation.size}")
    picture = np.array(image_rgb, dtype=np.uint8)
    del image_rgb  # 36 MB for 12 megapixels, where the caller does not keep it
    scale = _scale(picture)
    for instance in reversed(segmentation.instances):  # the best score is drawn last, on top
        _draw_mask(picture, instance, scale)
    canvas = Image.fromarray(picture)
    del picture
    draw = ImageDraw.Draw(canvas)
    panel = _draw_legend(canvas, draw, segmentation, scale) if legend else None
    taken: list[Box] = [panel] if panel else []
    for instance in segmentation.instances:
        taken.append(_draw_label(draw, instance, canvas.size, scale, taken, scores=scores))
    return to_pixels(canvas)


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
            letters = fitting_font(text, size * scale, picture.shape[1])
            draw.text((left, top * scale), text, font=letters, fill=ink)
        left += picture.shape[1] + gap
    return np.array(canvas)


def encode_picture(image_rgb: Pixels, kind: Literal["png", "jpeg"], *, quality: int = 90) -> bytes:
    """A PNG or JPEG file of uint8 (H, W, 3) RGB pixels; `quality` is JPEG's, 0..100."""
    options = _PNG if kind == "png" else (cv2.IMWRITE_JPEG_QUALITY, quality)
    done, data = cv2.imencode(f".{kind}", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError(f"a picture of shape {image_rgb.shape} cannot be written as {kind}")
    return data.tobytes()


def _scale(picture: Pixels) -> float:
    """How much bigger than on a photo of about 800 × 600 px lines and letters are."""
    height, width = picture.shape[:2]
    return max(0.8, float(np.sqrt(height * width)) / 700)


def _draw_mask(picture: Pixels, instance: Instance, scale: float) -> None:
    colour = class_colour(instance.class_id)
    line = max(1, round(2 * scale))
    if instance.mask_rle is None:
        x_min, y_min, x_max, y_max = (round(value) for value in instance.box_xyxy)
        cv2.rectangle(picture, (x_min, y_min), (x_max - 1, y_max - 1), colour, line, cv2.LINE_AA)
        return
    inside, (x_min, y_min, x_max, y_max) = decode_inside(instance.mask_rle)
    if not inside.size:
        return
    region = picture[y_min:y_max, x_min:x_max]
    cv2.copyTo(_tinted(region, colour), inside, region)
    # a point for every pixel of the edge would be ten times as many lines to draw
    steps, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x_min, y_min))
    outlines = [cv2.approxPolyDP(outline, line * _OUTLINE_TOLERANCE, True) for outline in steps]
    cv2.drawContours(picture, outlines, -1, (255, 255, 255), line + max(2, line), cv2.LINE_AA)
    cv2.drawContours(picture, outlines, -1, colour, line, cv2.LINE_AA)


def _tinted(region: Pixels, colour: Rgb) -> Pixels:
    """The region leaning to the colour by `_FILL`: uint8 (h, w, 3), a new array."""
    return np.asarray(cv2.transform(region, np.column_stack([np.eye(3) * (1 - _FILL), np.array(colour) * _FILL])))


def _draw_label(
    draw: ImageDraw.ImageDraw,
    instance: Instance,
    size: tuple[int, int],
    scale: float,
    taken: Sequence[Box],
    *,
    scores: bool,
) -> Box:
    """Draws the chip at a free place near the box's top left corner and returns where it is."""
    text = f"{instance.class_name} {instance.score:.0%}" if scores else instance.class_name
    letters = fitting_font(text, 15 * scale, size[0] - 12 * scale)
    width, height = draw.textlength(text, font=letters) + 12 * scale, 21 * scale
    x_min, y_min, _, y_max = instance.box_xyxy
    left = min(max(0.0, x_min), max(0.0, size[0] - width))
    lowest = max(0.0, size[1] - height)
    tops = [y_min - height - 3 * scale, y_min + 3 * scale, *np.arange(y_min, y_max, height + 2 * scale)[1:40]]
    places = [(left, top, left + width, top + height) for top in (min(max(0.0, float(y)), lowest) for y in tops)]
    chip = next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])
    colour = class_colour(instance.class_id)
    draw.rounded_rectangle(chip, radius=5 * scale, fill=colour)
    middle = (chip[0] + 6 * scale, (chip[1] + chip[3]) / 2)
    draw.text(middle, text, font=letters, fill=_ink_on(colour), anchor="lm")
    return chip


def _draw_legend(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, segmentation: Segmentation, scale: float
) -> Box | None:
    """Draws the panel at the bottom left, if the image has room for it; returns where it is."""
    rows, size = _legend_rows(segmentation), canvas.size
    letters = font(15 * scale, "".join(name for _, name, _ in rows))
    line, margin, swatch = 22 * scale, 10 * scale, 13 * scale
    names = max(draw.textlength(name, font=letters) for _, name, _ in rows) + swatch + 3 * margin
    width = names + max(draw.textlength(share, font=letters) for _, _, share in rows) + margin
    height = line * len(rows) + margin
    if width + 2 * margin > size[0] or height + 2 * margin > size[1]:
        return None
    panel = (margin, size[1] - margin - height, margin + width, size[1] - margin)
    shade = Image.new("L", (round(width), round(height)))
    ImageDraw.Draw(shade).rounded_rectangle((0, 0, width - 1, height - 1), radius=7 * scale, fill=190)
    canvas.paste(_INK, (round(panel[0]), round(panel[1])), shade)
    for row, (colour, name, share) in enumerate(rows):
        middle = panel[1] + margin / 2 + line * (row + 0.5)
        left = panel[0] + margin
        if colour:
            square = (left, middle - swatch / 2, left + swatch, middle + swatch / 2)
            draw.rounded_rectangle(square, radius=3 * scale, fill=colour)
        draw.text((left + swatch + margin * 0.8, middle), name, font=letters, fill=_PAPER, anchor="lm")
        draw.text((panel[2] - margin, middle), share, font=letters, fill=_PAPER, anchor="rm")
    return panel


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
