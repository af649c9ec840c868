"""bytes ─▶ checked header ─▶ pixels, all or every 2nd, 4th or 8th ─▶ RGB over white ─▶ upright.

JPEGs are read by libjpeg-turbo itself (simplejpeg), in two fifths of the time that Pillow takes with it; what that
finds odd, and all else, by Pillow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from maskserve.imaging.header import ImageHeader, open_image, orientation_of, unreadable

Pixels = NDArray[np.uint8]
Size = tuple[int, int]
"""(height, width), px."""

BIG_PX = 2_000_000
"""Only photos of so many pixels are decoded smaller: others are decoded in 10 ms, and are sharp to the last pixel."""
MARGIN = 1.7
"""A smaller decode has at least so many times the pixels a side that the network will see.

Measured with Pillow's bilinear resize after it, against all pixels and the same resize (mean absolute difference, grey
levels, mean over photos and worst photo): 23 of the kit's photos enlarged to 12 megapixels, seen at a short side of
128 px 0.28 (0.56), 320 px 0.30 (0.68), 480 px 0.20 (0.38), 800 px 0.30 (0.62).
"""
_UPRIGHT: dict[int, Callable[[Pixels], Any]] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
"""What undoes each EXIF orientation (Exif 2.3, tag 0x0112)."""
_QUICK_MODES = ("RGB", "L")

_STRIP_PX = 256


def decode_rgb(data: bytes) -> Pixels:
    """The pixels of a JPEG, PNG or WebP file: uint8 (H, W, 3), RGB, 0..255, upright, C-contiguous.

    Grey is repeated, transparency is laid over white, 16-bit keeps the high byte, CMYK follows Adobe's inverted
    convention; colour profiles are ignored. Raises RequestError as `inspect_image`, and IMAGE_UNREADABLE for a file
    that is cut off or damaged.
    """
    return _decode(data, *open_image(data))


def decode_near(data: bytes, seen_at: Callable[[Size], Size]) -> tuple[Pixels, Size]:
    """The pixels that a network needs of a photo, and the whole photo's (height, width).

    A big JPEG is decoded at 1/2, 1/4 or 1/8 of its size, which costs a fraction (libjpeg's scaled inverse DCT); all
    else as by `decode_rgb`, whose errors it raises. Pixels of a side that the divisor does not divide are rounded up.

    Args:
        data: the file's bytes.
        seen_at: (height, width) of a photo ─▶ (height, width) at which the network sees it.
    """
    image, header = open_image(data)
    return _decode(data, image, header, _divisor(header, seen_at(header.size))), header.size


def _decode(data: bytes, image: ImageFile, header: ImageHeader, divisor: int = 1) -> Pixels:
    pixels = _quickly(data, image, divisor) if header.format == "JPEG" and image.mode in _QUICK_MODES else None
    if pixels is None:
        pixels = _by_pillow(image, divisor)
    return _upright(pixels, header.orientation)


def decode_opened(image: Image.Image) -> Pixels:
    """As `decode_rgb`, of an image of any format that Pillow has opened, and of an animated one the first; what is
    raised of a damaged one is Pillow's."""
    pixels = to_pixels(_to_rgb(image))  # a TIFF's have been turned by Pillow, and its orientation is then 1
    return _upright(pixels, orientation_of(image))


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    turn = _UPRIGHT.get(orientation)
    return np.asarray(turn(pixels), np.uint8) if turn else pixels


def _quickly(data: bytes, image: ImageFile, divisor: int) -> Pixels | None:
    """A JPEG's pixels, the same as Pillow's; None for a file with anything odd, of which Pillow can read some."""
    height, width = -(-image.height // divisor), -(-image.width // divisor)
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, min_height=height, min_width=width, min_factor=divisor))
    except ValueError:
        return None


def _by_pillow(image: ImageFile, divisor: int) -> Pixels:
    try:
        if divisor > 1:
            image.draft(None, (image.width // divisor, image.height // divisor))
        image.load()
        rgb = _to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:
        raise unreadable("it is cut off or damaged") from error
    return to_pixels(rgb)


def _divisor(header: ImageHeader, seen: Size) -> int:
    """The greatest of libjpeg's at which the pixels stay `MARGIN` times what is seen; 1 where it is not worth it."""
    if header.format != "JPEG" or header.size[0] * header.size[1] < BIG_PX:
        return 1
    for divisor in (8, 4, 2):
        # a side's pixel that lies partly outside must stay its last one
        stays_last = header.orientation == 1 or not any(side % divisor for side in header.size)
        if stays_last and all(
            side >= wanted * divisor * MARGIN for side, wanted in zip(header.size, seen, strict=True)
        ):
            return divisor
    return 1


def to_pixels(image: Image.Image) -> Pixels:
    """An RGB image as uint8 (H, W, 3), a new array; strip by strip, for Pillow copies all that it hands over twice."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _STRIP_PX):
        bottom = min(top + _STRIP_PX, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey, which Pillow's own conversion would clip at 255
        grey = np.asarray(image)
        shown = np.where(grey == image.info.get("transparency"), 255, grey >> 8)
        return Image.fromarray(shown.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")
