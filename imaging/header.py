"""bytes ─▶ allow-listed format ─▶ size by header ─▶ limits ─▶ ImageHeader; no pixel is decoded here.

Pillow's plugins are opened by name, never through `Image.open`: of its forty formats only three are wanted, and its
own pixel limit warns where ours refuses.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO

import simplejpeg
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from maskserve.imaging.jpeg import MAX_SCANS, has_too_many_scans
from maskserve.protos import wire
from maskserve.protos.errors import RequestError
from maskserve.protos.types import ErrorCode

SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations whose rows are the upright image's columns (Exif 2.3, tag 0x0112)."""
_XMP = ("xmp", "XML:com.adobe.xmp")
"""What Pillow calls it."""
_REFUSED = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF or a camera's raw file",
    b"MM\0*": "a TIFF or a camera's raw file",
    b"\0\0\0\x0cjP": "a JPEG 2000",
    b"\xff\x4f\xff\x51": "a JPEG 2000",
    b"\xff\x0a": "a JPEG XL",
    b"\0\0\0\x0cJXL ": "a JPEG XL",
    b"%PDF": "a PDF",
    b"<svg": "an SVG drawing",
    b"<?xml": "XML text",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
    b"PK\x03\x04": "a ZIP archive",
}


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an image says about itself."""

    format: str
    """JPEG, PNG or WEBP."""
    mode: str
    """Pillow's name of the pixel layout as stored: RGB, L, P, RGBA, CMYK, I;16, …"""
    size: tuple[int, int]
    """(height, width) in px after EXIF orientation."""
    orientation: int = 1
    """See `orientation_of`."""


def inspect_image(data: bytes) -> ImageHeader:
    """The header of an uploaded image, within milliseconds and without decoding it.

    Raises RequestError: IMAGE_MISSING (no bytes), IMAGE_UNSUPPORTED (another format, or animated), IMAGE_UNREADABLE
    (damaged before its pixels begin, or a JPEG made to be slow), IMAGE_TOO_LARGE (more than wire.MAX_IMAGE_BYTES or
    wire.MAX_IMAGE_PX).
    """
    return open_image(data)[1]


def check_image(data: bytes) -> None:
    """Raises what `inspect_image` does, of a JPEG in a third of the time: what only Pillow finds wrong with its header
    is left to the decoder."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        open_image(data)
    else:
        _check_bytes(data)
        _check_pixels(width, height)
        _check_scans(data)


def open_image(data: bytes) -> tuple[ImageFile, ImageHeader]:
    """The image, opened but not decoded, and its checked header. Raises as `inspect_image`."""
    _check_bytes(data)
    opener = _opener(data)
    if opener is WebPImageFile:
        # Pillow's WebP plugin allocates the whole canvas when it opens a file
        _check_pixels(*_webp_size(data))
    try:
        image: ImageFile = opener(BytesIO(data))
    except Exception as error:
        raise unreadable("its header is damaged") from error
    width, height = image.size
    _check_pixels(width, height)
    if getattr(image, "n_frames", 1) > 1:
        raise RequestError(
            ErrorCode.IMAGE_UNSUPPORTED, f"The image is an animated {image.format}; send one frame of it as a photo."
        )
    if opener is JpegImageFile:
        _check_scans(data)
    return image, ImageHeader(str(image.format), image.mode, upright_size(image), orientation_of(image))


def unreadable(why: str) -> RequestError:
    """The error of a damaged image."""
    return RequestError(ErrorCode.IMAGE_UNREADABLE, f"The image cannot be read: {why}. Save or upload it again.")


def _check_bytes(data: bytes) -> None:
    if not data:
        raise RequestError(ErrorCode.IMAGE_MISSING, "The image has no bytes; send a JPEG, PNG or WebP file.")
    if len(data) > wire.MAX_IMAGE_BYTES:
        raise _too_large(f"{len(data) / 2**20:.1f} MiB", f"{wire.MAX_IMAGE_BYTES / 2**20:.1f} MiB")


def _check_scans(jpeg: bytes) -> None:
    if has_too_many_scans(jpeg):
        raise unreadable(f"it is a JPEG of more than {MAX_SCANS} scans, which no camera or program writes")


def _opener(data: bytes) -> type[ImageFile]:
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImageFile
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WebPImageFile
    raise RequestError(ErrorCode.IMAGE_UNSUPPORTED, f"The file is {_kind(data)}; send a JPEG, PNG or WebP image.")


def _kind(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        return "an AVIF" if brand == b"avif" else "a HEIC" if brand[:2] in (b"he", b"mi", b"ms") else "a video"
    start = data[:64].lstrip()
    return next((name for magic, name in _REFUSED.items() if start.startswith(magic)), "not an image that we know")


def _check_pixels(width: int, height: int) -> None:
    if width * height > wire.MAX_IMAGE_PX:
        raise _too_large(
            f"{width} × {height} px = {width * height / 1e6:.1f} megapixels",
            f"{wire.MAX_IMAGE_PX / 1e6:.0f} megapixels",
        )


def _too_large(has: str, limit: str) -> RequestError:
    return RequestError(
        ErrorCode.IMAGE_TOO_LARGE, f"The image has {has}; at most {limit} are accepted. Send a smaller one."
    )


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) of the canvas; RFC 9649 §2.5–2.7. (0, 0) for a chunk that is none of the three."""
    chunk = data[12:16]
    if chunk == b"VP8X" and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8 " and len(data) >= 30:
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if chunk == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return 0, 0


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) px after EXIF orientation."""
    stored = orientation_of(image) in SIDEWAYS and not isinstance(image, TiffImageFile)  # which says its upright one
    return image.size if stored else image.size[::-1]


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation 1..8 of the stored pixels; 1 when there is none or a broken one.

    Where there is none, Pillow would take XMP's, by which browsers, OpenCV and labelling tools do not turn a photo.
    """
    for key in _XMP:
        image.info.pop(key, None)
    try:
        # Not the PNG plugin's own getexif: that one decodes the image to look for a late chunk
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 — a photo with broken EXIF is still a photo
        return 1
    return value if value in range(1, 9) else 1
