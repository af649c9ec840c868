"""bytes ─▶ checked header ─▶ pixels ─▶ RGB over white ─▶ upright."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskserve.imaging.header import open_image, unreadable

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation (Exif 2.3, tag 0x0112)."""

_STRIP_PX = 256


def decode_rgb(data: bytes) -> NDArray[np.uint8]:
    """The pixels of a JPEG, PNG or WebP file: uint8 (H, W, 3), RGB, 0..255, upright, C-contiguous.

    Grey is repeated, transparency is laid over white, 16-bit keeps the high byte, CMYK follows Adobe's inverted
    convention; colour profiles are ignored. Raises RequestError as `inspect_image`, and IMAGE_UNREADABLE for a file
    that is cut off or damaged.
    """
    image, header = open_image(data)
    try:
        image.load()
        rgb = _to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:
        raise unreadable("it is cut off or damaged") from error
    if header.orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[header.orientation])
    del image
    return to_pixels(rgb)


def to_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """An RGB image as uint8 (H, W, 3), a new array; strip by strip, for Pillow copies all that it hands over twice."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _STRIP_PX):
        bottom = min(top + _STRIP_PX, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey, which Pillow's own conversion would clip at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")
