"""What a photo file is, without caring for its extension: size after EXIF orientation, pixels, content hash."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from maskserve.imaging.decode import Size, decode_near, decode_opened, decode_rgb
from maskserve.imaging.header import orientation_of, upright_size
from maskserve.protos.errors import DataError, RequestError


def photo_size(data: bytes) -> tuple[int, int]:
    """(height, width) after EXIF orientation, from the header.

    Raises:
        DataError: when Pillow cannot read it.
    """
    with _opened(data, "it is no readable photo") as photo:
        return upright_size(photo)


def check_pixels(data: bytes) -> None:
    """Read the file to its end, cheaply.

    Raises:
        DataError: when it is damaged or cut off.
    """
    with _opened(data, "it is damaged") as photo:
        photo.draft("RGB", (1, 1))  # a JPEG's coefficients are read, most of them not turned into pixels
        photo.load()


def decode_photo(data: bytes) -> np.ndarray:
    """All pixels of a photo as a model sees it in training: RGB uint8 (H, W, 3), upright.

    They are the server's (`maskserve.imaging.decode.decode_rgb`); formats and sizes that it refuses are read likewise.

    Raises:
        DataError: when Pillow cannot read it.
    """
    try:
        return decode_rgb(data)
    except RequestError:
        with _opened(data, "it is no readable photo") as photo:
            return decode_opened(photo)


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
        return orientation_of(photo)


def pixel_hash(pixels: np.ndarray) -> str:
    """The same for copies that differ only in metadata."""
    return content_hash(f"{pixels.shape}".encode() + pixels.tobytes())


def digests(data: bytes) -> tuple[str, str]:
    """The SHA-256 of a photo's file, and that of its pixels. Raises as `decode_photo`."""
    return content_hash(data), pixel_hash(decode_photo(data))


def content_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def extension(data: bytes) -> str:
    """The file name extension that fits the content, with its dot."""
    with Image.open(io.BytesIO(data)) as photo:
        return {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif"}.get(
            photo.format or "", ".img"
        )


@contextmanager
def _opened(data: bytes, complaint: str) -> Iterator[Image.Image]:
    """A photo for Pillow to read in the block; of a bad one Pillow raises anything, here a DataError."""
    try:
        with Image.open(io.BytesIO(data)) as photo:
            yield photo
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001
        raise DataError(f"{complaint} ({error})") from None
