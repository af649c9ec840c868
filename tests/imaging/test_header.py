"""The header check: what is accepted, what is refused with which code, and that nothing is decoded."""

from __future__ import annotations

import re
import struct
import tracemalloc
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from maskserve.imaging.decode import decode_rgb
from maskserve.imaging.header import _webp_size, check_image, inspect_image
from maskserve.imaging.jpeg import MAX_SCANS
from maskserve.protos import wire
from maskserve.protos.errors import RequestError
from maskserve.protos.types import ErrorCode


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_claiming(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunk = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas
    body = b"WEBP" + chunk + encoded(Image.new("RGB", (8, 8)), "WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def refusal(data: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        inspect_image(data)
    with pytest.raises(RequestError, match=re.escape(caught.value.message)):
        check_image(data)
    return caught.value


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_three_formats_are_read(kind: str) -> None:
    """JPEG, PNG and WebP are accepted, and sizes are (height, width)."""
    header = inspect_image(encoded(Image.new("RGB", (30, 20)), kind))
    assert (header.format, header.size, header.orientation) == (kind, (20, 30), 1)


@pytest.mark.parametrize(
    ("kind", "name"), [("GIF", "GIF"), ("BMP", "BMP"), ("TIFF", "TIFF"), ("JPEG2000", "JPEG 2000")]
)
def test_other_formats_are_refused_by_name(kind: str, name: str) -> None:
    """An image of another format is IMAGE_UNSUPPORTED, and the text names the format."""
    error = refusal(encoded(Image.new("RGB", (9, 9)), kind))
    assert error.code is ErrorCode.IMAGE_UNSUPPORTED
    assert name in error.message


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"<html><body>", "web page"),
        (b"<svg xmlns=", "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\0\x1cftypheic\0\0", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0", "AVIF"),
        (b"hello", "not an image"),
        (b"\0" * 5000, "not an image"),
    ],
)
def test_what_is_no_photo_is_refused_by_name(data: bytes, name: str) -> None:
    """Web pages, drawings and a phone's HEIC are IMAGE_UNSUPPORTED, said in words."""
    error = refusal(data)
    assert error.code is ErrorCode.IMAGE_UNSUPPORTED
    assert name in error.message


def test_no_bytes_are_a_missing_image() -> None:
    """An upload without bytes is IMAGE_MISSING."""
    assert refusal(b"").code is ErrorCode.IMAGE_MISSING


def test_too_many_bytes_are_refused() -> None:
    """More bytes than a message can carry are IMAGE_TOO_LARGE, whatever they are."""
    assert refusal(bytes(wire.MAX_IMAGE_BYTES + 1)).code is ErrorCode.IMAGE_TOO_LARGE


@pytest.mark.parametrize("claiming", [png_claiming, jpeg_claiming, webp_claiming])
@pytest.mark.parametrize("size", [(10_000, 10_000), (16_383, 16_383)])
def test_a_hundred_megapixels_are_refused_by_the_header(claiming: object, size: tuple[int, int]) -> None:
    """A header that claims too many pixels is refused, and nothing of that size is allocated."""
    data = claiming(*size)  # type: ignore[operator]
    refusal(data)
    tracemalloc.start()
    error = refusal(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.code is ErrorCode.IMAGE_TOO_LARGE
    assert "megapixels" in error.message
    assert peak < 2**20


@pytest.mark.parametrize(
    ("chunk", "options"), [(b"VP8 ", {}), (b"VP8L", {"lossless": True}), (b"VP8X", {"xmp": b"<x/>"})]
)
def test_each_kind_of_webp_says_its_size_before_it_is_opened(chunk: bytes, options: dict[str, object]) -> None:
    """Opening it would make room for all that it claims."""
    data = encoded(Image.new("RGB", (4001, 300)), "WEBP", **options)
    assert data[12:16] == chunk
    assert _webp_size(data) == (4001, 300)


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (60_000, 60_000)])
def test_absurd_sizes_are_refused(size: tuple[int, int]) -> None:
    """Sizes beyond Pillow's own bomb limit have our code and text."""
    assert refusal(png_claiming(*size)).code is ErrorCode.IMAGE_TOO_LARGE


def test_a_48_megapixel_photo_passes() -> None:
    """A phone's largest photos are below the limit."""
    assert inspect_image(png_claiming(8000, 6000)).size == (6000, 8000)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_refused(kind: str) -> None:
    """An animated PNG or WebP is IMAGE_UNSUPPORTED and the text says so."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    error = refusal(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert error.code is ErrorCode.IMAGE_UNSUPPORTED
    assert "animated" in error.message


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = encoded(Image.new("L", (64, 64), 90), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (count - data.count(b"\xff\xda")) + b"\xff\xd9"


def test_a_jpeg_made_to_be_slow_is_refused() -> None:
    """Thousands of scans in a few kilobytes would keep a worker busy for minutes."""
    assert inspect_image(with_scans(20)).format == "JPEG"
    check_image(with_scans(20))
    assert refusal(with_scans(1000)).code is ErrorCode.IMAGE_UNREADABLE


def test_scans_are_counted_wherever_they_lie() -> None:
    """Also one that lies on the border between two of the pieces in which a file is looked through."""
    data = with_scans(MAX_SCANS + 1)
    to_border = 2**18 - 1 - data.index(b"\xff\xda")
    comments = [to_border // 20] * 19 + [to_border - to_border // 20 * 19]
    padding = b"".join(b"\xff\xfe" + (size - 2).to_bytes(2) + bytes(size - 4) for size in comments)
    padded = data[:2] + padding + data[2:]
    assert padded.index(b"\xff\xda") == 2**18 - 1
    assert refusal(padded).code is ErrorCode.IMAGE_UNREADABLE
    assert inspect_image(with_scans(MAX_SCANS)).format == "JPEG"


def test_scans_after_one_with_everything_are_left_to_the_decoder() -> None:
    """libjpeg takes no second one. Where the first scan has one colour only, more of them are wanted, and counted."""
    photo = encoded(Image.new("RGB", (64, 64)), "JPEG")
    scan = photo[photo.index(b"\xff\xda") : -2]
    slow = photo[:-2] + scan * 1000 + photo[-2:]
    assert inspect_image(slow).format == "JPEG"
    with pytest.raises(RequestError) as caught:
        decode_rgb(slow)
    assert caught.value.code is ErrorCode.IMAGE_UNREADABLE
    in_parts = slow.replace(b"\xff\xda\x00\x0c\x03", b"\xff\xda\x00\x0c\x01")
    assert "scans" in refusal(in_parts).message


def test_what_follows_a_jpegs_end_is_not_counted() -> None:
    """Motion photos and MPO carry other data behind the image, thumbnails sit inside EXIF; neither are scans."""
    thumbnail = b"Exif\0\0" + b"\xff\xda\0\x02" * 500 + b"\xff\xd9"
    data = encoded(Image.new("RGB", (30, 20)), "JPEG") + b"\xff\xda\0\x02" * 500
    data = data[:2] + b"\xff\xed" + (len(thumbnail) + 2).to_bytes(2) + thumbnail + data[2:]
    assert inspect_image(data).size == (20, 30)


@pytest.mark.parametrize("data", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 ", png_claiming(0, 5)])
def test_broken_headers_are_unreadable(data: bytes) -> None:
    """A file that begins as an image and has no usable header is IMAGE_UNREADABLE."""
    assert refusal(data).code is ErrorCode.IMAGE_UNREADABLE


def test_broken_exif_does_not_refuse_a_photo() -> None:
    """EXIF that cannot be read counts as none."""
    data = encoded(Image.new("RGB", (30, 20)), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert inspect_image(data).orientation == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_orientation_in_xmp_turns_nothing(kind: str) -> None:
    """As in a browser, which lays masks over the photo."""
    xmp = '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp)
    data = encoded(Image.new("RGB", (30, 20)), kind, **({"pnginfo": text} if kind == "PNG" else {"xmp": xmp.encode()}))
    assert (inspect_image(data).size, inspect_image(data).orientation) == ((20, 30), 1)


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8))
SEEDS = [encoded(PHOTO, kind) for kind in ("JPEG", "PNG", "WEBP")]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8), st.data())
def test_damaged_files_only_ever_raise_request_errors(
    seed: bytes, flips: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Whatever bytes come in, the answer is an image or a RequestError; the quick check refuses no image."""
    damaged = bytearray(seed)
    for at, value in flips:
        damaged[at % len(damaged)] = value
    end = data.draw(st.integers(0, len(damaged)))
    for candidate in (bytes(damaged), bytes(damaged[:end])):
        try:
            header = inspect_image(candidate)
        except RequestError:
            with suppress(RequestError):
                check_image(candidate)
            continue
        check_image(candidate)
        with suppress(RequestError):
            assert decode_rgb(candidate).shape == (*header.size, 3)


@pytest.mark.kit
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_the_kits_bad_images(kit: Path) -> None:
    """Real broken files: each has the expected outcome, within 50 ms for the header."""
    expected = {
        "half-a-panda.jpg": "image_unreadable",
        "bit-rot-panda.jpg": "image_unreadable",
        "truncated_image.png": "image_unreadable",
        "zero-width.png": "image_unreadable",
        "broken.png": "image_unreadable",
        "empty.jpg": "image_missing",
        "html-named.png": "image_unsupported",
        "panda-animated.gif": "image_unsupported",
        "panda.svg": "image_unsupported",
        "bomb-13000x13000-rgb-header-lies.png": "image_too_large",
        "panda-exif6.jpg": (256, 384),
        "Portrait_6.jpg": (1800, 1200),
        "frozenpond.mpo": (480, 640),
        "panda-1bit.png": (256, 384),
        "pil_sample_cmyk.jpg": (100, 100),
        "hopper_orientation_6.webp": (128, 128),
        "hopper_bad_exif.jpg": (500, 500),
    }
    for path in sorted((kit / "bad-images").rglob("*.*")):
        data = path.read_bytes()
        outcome = _outcome(data)
        assert outcome == expected.get(path.name, outcome), path


def _outcome(data: bytes) -> object:
    try:
        return decode_rgb(data).shape[:2]
    except RequestError as error:
        return str(error.code)
