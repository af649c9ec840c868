"""What a photo file is, without caring for its extension: size after EXIF orientation, pixels, content hash."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from maskserve.imaging.decode import Size, decode_near
from maskserve.protos.errors import DataError, RequestError

ORIENTATION_TAG = 0x0112
TURNED = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap height and width."""

_UNREADABLE = (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def photo_size(data: bytes) -> tuple[int, int]:
    """(height, width) after EXIF orientation, from the header.

    Raises:
        DataError: when Pillow cannot read it.
    """
    try:
        with Image.open(io.BytesIO(data)) as photo:
            turned = photo.getexif().get(ORIENTATION_TAG) in TURNED
            return (photo.width, photo.height) if turned else (photo.height, photo.width)
    except _UNREADABLE as error:
        raise DataError(f"it is no readable photo ({error})") from None


def check_pixels(data: bytes) -> None:
    """Read the file to its end, cheaply.

    Raises:
        DataError: when it is damaged or cut off.
    """
    try:
        with Image.open(io.BytesIO(data)) as photo:
            photo.draft("RGB", (1, 1))  # a JPEG's coefficients are read, most of them not turned into pixels
            photo.load()
    except _UNREADABLE as error:
        raise DataError(f"it is damaged ({error})") from None


def decode_photo(data: bytes) -> np.ndarray:
    """RGB uint8 (H, W, 3), EXIF orientation applied, as Detectron2 reads it for training.

    Raises:
        DataError: when Pillow cannot read it.
    """
    try:
        with Image.open(io.BytesIO(data)) as photo:
            upright = ImageOps.exif_transpose(photo)
            return np.asarray((upright or photo).convert("RGB"))
    except _UNREADABLE as error:
        raise DataError(f"it is no readable photo ({error})") from None


def decode_as_served(data: bytes, seen_at: Callable[[Size], Size]) -> tuple[np.ndarray, Size]:
    """The pixels that the server's worker gets of a photo, and the photo's (height, width); see `decode_near`.

    What the server refuses (a BMP, a photo above its limits) is decoded by `decode_photo`.

    Raises:
        DataError: when Pillow cannot read it.
    """
    try:
        return decode_near(data, seen_at)
    except RequestError:
        pixels = decode_photo(data)
        return pixels, (pixels.shape[0], pixels.shape[1])


def orientation(data: bytes) -> int:
    """The EXIF orientation 1..8 of a readable photo, 1 when it has none."""
    with Image.open(io.BytesIO(data)) as photo:
        return int(photo.getexif().get(ORIENTATION_TAG, 1))


def pixel_hash(pixels: np.ndarray) -> str:
    """The same for copies that differ only in metadata."""
    return content_hash(f"{pixels.shape}".encode() + pixels.tobytes())


def content_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def extension(data: bytes) -> str:
    """The file name extension that fits the content, with its dot."""
    with Image.open(io.BytesIO(data)) as photo:
        return {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif"}.get(
            photo.format or "", ".img"
        )
