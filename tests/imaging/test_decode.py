"""Decoding: every kind of photo comes out as the same upright RGB pixels."""

from __future__ import annotations

import struct
from functools import cache, partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms

from maskserve.imaging import decode
from maskserve.imaging.decode import BIG_PX, MARGIN, decode_near, decode_rgb
from maskserve.imaging.header import inspect_image
from maskserve.protos.errors import RequestError
from maskserve.protos.types import ErrorCode


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def gradient(height: int = 20, width: int = 30) -> NDArray[np.uint8]:
    """No two rotations or mirrorings of it are alike."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 8 % 256, y * 12 % 256, (x + 2 * y) % 256], axis=2).astype(np.uint8)


def test_png_pixels_are_exact() -> None:
    """An RGB PNG comes out pixel by pixel, writable, C-contiguous and uint8."""
    rgb = decode_rgb(encoded(Image.fromarray(gradient())))
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous
    assert rgb.flags.writeable
    np.testing.assert_array_equal(rgb, gradient())


# What a camera stores for an upright scene, for each orientation (Exif 2.3).
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_exif_orientation_comes_out_upright(orientation: int, kind: str) -> None:
    """All eight orientations give the upright scene, and the header knows its size."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](gradient())))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(stored, kind, exif=exif.tobytes(), **options)
    assert inspect_image(data).size == (20, 30)
    np.testing.assert_array_equal(decode_rgb(data), gradient())


@pytest.mark.parametrize("orientation", STORED)
def test_jpeg_orientations(orientation: int) -> None:
    """JPEG, which cameras write, behaves as PNG within its losses."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = (gradient() // 3).astype(np.uint8)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](smooth)))
    data = encoded(stored, "JPEG", quality=100, subsampling=0, exif=exif.tobytes())
    assert np.abs(decode_rgb(data).astype(int) - smooth).max() < 30


@pytest.mark.parametrize("orientation", [0, 9, 4711])
def test_senseless_orientations_count_as_none(orientation: int) -> None:
    """An orientation outside 1..8 leaves the image as it is."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode_rgb(encoded(Image.fromarray(gradient()), exif=exif.tobytes())), gradient())


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_is_repeated(mode: str) -> None:
    """Grey and one-bit images have three equal channels."""
    image = Image.fromarray(gradient()[:, :, 0]).convert(mode)
    expected = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(decode_rgb(encoded(image)), np.repeat(expected[:, :, None], 3, axis=2))


def test_sixteen_bit_grey_is_scaled() -> None:
    """16-bit grey keeps its high byte: neither clipped to white nor wrapped around."""
    values = np.arange(600, dtype=np.uint16).reshape(20, 30) * 109
    rgb = decode_rgb(encoded(Image.fromarray(values)))
    np.testing.assert_array_equal(rgb[:, :, 1], values >> 8)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(mode: str) -> None:
    """Transparent pixels are white, half-transparent ones are half-way to it, opaque ones keep their colour."""
    image = Image.new(mode, (3, 1))
    black = (0,) * (len(mode) - 1)
    for x, alpha in enumerate((0, 128, 255)):
        image.putpixel((x, 0), (*black, alpha))
    np.testing.assert_allclose(decode_rgb(encoded(image))[0, :, 0], [255, 127, 0], atol=1)


def test_palettes_with_transparency() -> None:
    """A palette's colours are looked up and its transparent entry is white."""
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(decode_rgb(encoded(image))[0], [[10, 20, 30], [200, 0, 0]])
    np.testing.assert_array_equal(decode_rgb(encoded(image, transparency=0))[0], [[255, 255, 255], [200, 0, 0]])


def test_a_transparent_colour_of_an_rgb_png() -> None:
    """PNG's tRNS colour key is white too."""
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    rgb = decode_rgb(encoded(image, transparency=(1, 2, 3)))
    np.testing.assert_array_equal(rgb[0], [[255, 255, 255], [9, 9, 9]])


def test_a_transparent_grey_of_sixteen_bits() -> None:
    """And in 16 bits, where its neighbour stays."""
    data = encoded(Image.fromarray(np.array([[700, 701]], np.uint16)), transparency=700)
    np.testing.assert_array_equal(decode_rgb(data)[0], [[255] * 3, [2] * 3])


def test_cmyk_jpegs_are_not_inverted() -> None:
    """A CMYK JPEG, which Adobe stores inverted, keeps its colours: paper is white and cyan is cyan."""
    image = Image.new("CMYK", (16, 32), (0, 0, 0, 0))
    image.paste((255, 0, 0, 0), (0, 16, 16, 32))
    rgb = decode_rgb(encoded(image, "JPEG", quality=100)).astype(int)
    assert np.abs(rgb[4, 8] - [255, 255, 255]).max() < 8
    assert np.abs(rgb[28, 8] - [0, 255, 255]).max() < 12


def test_ycck_jpegs_are_read() -> None:
    """Photoshop's YCCK (Adobe transform 2) is converted by its marker."""
    plain = encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG", quality=100)
    at = plain.index(b"Adobe")
    assert struct.unpack_from(">B", plain, at + 11) == (0,)
    ycck = plain[: at + 11] + b"\x02" + plain[at + 12 :]
    assert decode_rgb(ycck).shape == (16, 16, 3)


def test_colour_profiles_are_ignored() -> None:
    """An embedded ICC profile changes no pixel: models are trained without colour management."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with_profile = encoded(Image.fromarray(gradient()), icc_profile=profile)
    np.testing.assert_array_equal(decode_rgb(with_profile), gradient())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_trailing_garbage_is_harmless(kind: str) -> None:
    """Bytes after the image's end are left alone."""
    assert decode_rgb(encoded(Image.fromarray(gradient()), kind) + b"PK\x03\x04" * 50).shape == (20, 30, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_cut_off_files_are_unreadable(kind: str) -> None:
    """Half a file is IMAGE_UNREADABLE, never half an image."""
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(RequestError) as caught:
        decode_rgb(data[: len(data) // 2])
    assert caught.value.code is ErrorCode.IMAGE_UNREADABLE


@cache
def scene(height: int, width: int, seed: int = 0) -> Image.Image:
    """Shapes of all sizes and a little noise, like a photo that is not sharp to its last pixel."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 64 + 1, width // 64 + 1, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.normal(0, 2, (height, width, 3)).astype(np.int16)
    return Image.fromarray(np.clip(np.asarray(image, np.int16) + noise, 0, 255).astype(np.uint8))


def quarter(size: tuple[int, int]) -> tuple[int, int]:
    """A network that sees photos at a quarter of their size."""
    return size[0] // 4, size[1] // 4


@pytest.mark.parametrize(("shrink", "divisor"), [(1.69, 1), (3.41, 2), (6.81, 4), (13.7, 8), (100, 8)])
def test_big_jpegs_are_decoded_near_the_size_that_is_seen(shrink: float, divisor: int) -> None:
    """At 1/2, 1/4 or 1/8, whichever is the smallest that leaves MARGIN times the pixels seen."""
    data = encoded(scene(1504, 2000), "JPEG")
    pixels, size = decode_near(data, lambda size: (int(size[0] / shrink), int(size[1] / shrink)))
    assert size == (1504, 2000)
    assert pixels.shape == (1504 // divisor, 2000 // divisor, 3)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert divisor == 1 or pixels.shape[0] >= MARGIN * int(1504 / shrink)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(1504, 2000), (1501, 2003)])
def test_a_smaller_decode_looks_as_the_whole_does(mode: str, progressive: bool, size: tuple[int, int]) -> None:
    """Seen at the network's size, within 0.3 grey levels on average, at the far edge too where sides do not divide."""
    resize = pytest.importorskip("maskserve.modeling.resize").resize
    data = encoded(scene(*size).convert(mode), "JPEG", quality=90, progressive=progressive)
    pixels, original = decode_near(data, quarter)
    assert pixels.shape[:2] == (-(-size[0] // 2), -(-size[1] // 2))
    seen = quarter(size)
    near, whole = resize(pixels, seen, original), resize(decode_rgb(data), seen)
    difference = np.abs(near.astype(int) - whole)
    assert difference.mean() < 0.3
    assert difference[:, -40:].mean() < 0.4
    assert difference[-40:].mean() < 0.4


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(("size", "divisor"), [((1504, 2000), 2), ((1501, 2000), 2)])
def test_smaller_decodes_are_upright_too(orientation: int, size: tuple[int, int], divisor: int) -> None:
    """In all eight orientations; a turned photo whose sides do not divide is decoded whole, as it would lie askew."""
    resize = pytest.importorskip("maskserve.modeling.resize").resize
    upright = np.asarray(scene(*size))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    data = encoded(stored, "JPEG", quality=95, exif=exif.tobytes())
    pixels, original = decode_near(data, quarter)
    assert original == size
    whole = size[0] % divisor and orientation != 1
    assert pixels.shape[0] == (size[0] if whole else -(-size[0] // divisor))
    seen = quarter(size)
    difference = np.abs(resize(pixels, seen, original).astype(int) - resize(decode_rgb(data), seen))
    assert difference.mean() < 0.3


@pytest.mark.parametrize(("kind", "size"), [("PNG", (1504, 2000)), ("WEBP", (1504, 2000)), ("JPEG", (1000, 1500))])
def test_other_formats_and_small_photos_are_decoded_whole(kind: str, size: tuple[int, int]) -> None:
    """Only big JPEGs are decoded smaller; of all others the pixels are those of decode_rgb."""
    assert kind != "JPEG" or size[0] * size[1] < BIG_PX
    data = encoded(scene(*size), kind, method=0, compress_level=1)
    pixels, original = decode_near(data, lambda _size: (100, 150))
    assert original == size
    np.testing.assert_array_equal(pixels, decode_rgb(data))


def test_a_long_strip_is_not_decoded_to_less_than_is_seen() -> None:
    """The shorter side counts as well: a panorama keeps its few rows."""
    pixels, size = decode_near(encoded(scene(16, 130_000 // 2), "JPEG"), lambda _size: (1, 1333))
    assert size == (16, 65_000)
    assert pixels.shape[0] >= MARGIN


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.97])
def test_a_big_jpeg_that_is_cut_off_is_unreadable_at_any_scale(keep: float) -> None:
    """A smaller decode notices what a whole one does."""
    data = encoded(scene(1504, 2000), "JPEG")
    with pytest.raises(RequestError) as caught:
        decode_near(data[: int(len(data) * keep)], lambda _size: (100, 133))
    assert caught.value.code is ErrorCode.IMAGE_UNREADABLE


@pytest.mark.kit
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}], ids=str)
@pytest.mark.parametrize(("shrink", "divisor"), [(1, 1), (4, 2), (8, 4), (16, 8)])
def test_jpegs_are_read_without_pillow_as_pillow_reads_them(
    mode: str, options: dict[str, object], shrink: float, divisor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers, whole and smaller, of sides that the divisor does not divide."""
    noisy = np.random.default_rng(0).integers(0, 60, (1501, 2003, 3), dtype=np.uint8) + gradient(1501, 2003) // 2
    photo = encoded(Image.fromarray(noisy).convert(mode), "JPEG", **options)
    with Image.open(BytesIO(photo)) as image:
        image.draft(None, (2003 // divisor, 1501 // divisor))
        expected = np.asarray(image.convert("RGB"))
    monkeypatch.setattr(decode, "_by_pillow", None)
    pixels, size = decode_near(photo, lambda size: (round(size[0] / shrink), round(size[1] / shrink)))
    assert size == (1501, 2003)
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, expected)


def test_an_odd_jpeg_that_pillow_can_read_is_read_by_it() -> None:
    """Bytes between two markers: libjpeg skips them with a warning."""
    photo = encoded(Image.fromarray(gradient()), "JPEG")
    quantization = photo.index(b"\xff\xdb")
    odd = photo[:quantization] + b"\x00\x01\x02" + photo[quantization:]
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(odd)
    np.testing.assert_array_equal(decode_rgb(odd), decode_rgb(photo))


def test_real_photos_of_12_megapixels_are_seen_as_if_decoded_whole(kit: Path) -> None:
    """Within 0.3 grey levels on average of Pillow's decode and bilinear resize, at every size that networks use."""
    network_size = pytest.importorskip("maskserve.modeling.pixels").network_size
    resize = pytest.importorskip("maskserve.modeling.resize").resize
    differences: dict[int, list[float]] = {short_px: [] for short_px in (128, 320, 480, 800)}
    for path in sorted((kit / "datasets").rglob("*.jpg"))[::27]:
        photo = Image.open(path).convert("RGB")
        scale = (12e6 / (photo.width * photo.height)) ** 0.5
        big = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BICUBIC)
        data = encoded(big, "JPEG", quality=90)
        whole = Image.open(BytesIO(data))
        for short_px, found in differences.items():
            seen_at = partial(network_size, min_size=short_px, max_size=short_px * 5 // 3)
            pixels, size = decode_near(data, seen_at)
            assert pixels.shape[0] < size[0]
            height, width = seen_at(size)
            expected = np.asarray(whole.resize((width, height), Image.Resampling.BILINEAR), np.int16)
            found.append(float(np.abs(resize(pixels, (height, width), size) - expected).mean()))
    assert {short_px: np.mean(found) for short_px, found in differences.items() if np.mean(found) > 0.3} == {}
