"""JPEGs for the GPU: which it decodes, upright, to the CPU's pixels. Without a GPU torchvision does it on the CPU."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskserve.imaging.decode import decode_rgb
from maskserve.modeling.gpu_jpeg import decode_on_gpu
from maskserve.protos.errors import RequestError

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
TURNED = range(1, 9)


def photo(mode: str = "RGB", size: tuple[int, int] = (90, 120), **options: object) -> bytes:
    coarse = np.random.default_rng(2).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def decoded(data: bytes, device: str) -> np.ndarray | None:
    found = decode_on_gpu(data, torch.device(device))
    if found is None:
        return None
    pixels, size = found
    assert pixels.device.type == device
    assert tuple(pixels.shape) == (*size, 3)
    return pixels.cpu().numpy()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_the_pixels_are_the_cpus(device: str, mode: str, progressive: bool, subsampling: int):
    """To the rounding of another decoder."""
    data = photo(mode, (91, 123), quality=90, progressive=progressive, subsampling=subsampling)
    pixels = decoded(data, device)
    assert pixels is not None
    difference = np.abs(pixels.astype(int) - decode_rgb(data))
    assert difference.mean() < 0.5
    assert difference.max() <= 8


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("orientation", TURNED)
def test_turned_photos_are_upright(device: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = photo(exif=exif.tobytes(), quality=95)
    pixels = decoded(data, device)
    assert pixels is not None
    assert np.abs(pixels.astype(int) - decode_rgb(data)).mean() < 0.5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.97])
def test_a_photo_that_is_cut_off_is_left_to_the_cpu(device: str, keep: float):
    """Also one whose thumbnail is whole."""
    thumbnail = photo(size=(12, 16))
    data = photo(quality=95)
    with_thumbnail = data[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2) + thumbnail + data[2:]
    assert decoded(with_thumbnail, device) is not None
    for whole in (data, with_thumbnail):
        cut = len(whole) - int(len(data) * (1 - keep))
        assert decoded(whole[:cut], device) is None


def renamed(data: bytes, names: bytes) -> bytes:
    """Components of the frame and the scan under other names."""
    for before, step in ((b"\xff\xc0", 3), (b"\xff\xda", 2)):
        first = data.index(before) + (10 if before == b"\xff\xc0" else 5)
        data = bytearray(data)
        for index, name in enumerate(names):
            data[first + index * step] = name
    return bytes(data)


def test_other_colour_spaces_and_formats_are_left_to_the_cpu():
    png = BytesIO()
    Image.new("RGB", (20, 10)).save(png, "PNG")
    data = photo()
    assert decoded(renamed(data, bytes([1, 2, 3])), "cpu") is not None
    for left in (photo("CMYK"), png.getvalue(), renamed(data, b"RGB")):
        assert decoded(left, "cpu") is None


def test_what_is_no_image_is_refused_as_on_the_cpu():
    with pytest.raises(RequestError):
        decode_on_gpu(b"GIF89a", torch.device("cpu"))


@pytest.mark.kit
@pytest.mark.parametrize("device", DEVICES)
def test_bad_files_of_the_kit_are_decoded_alike_or_left(kit: Path, device: str):
    """None is shown that the CPU refuses."""
    decoded_here = 0
    for file in sorted(path for path in (kit / "bad-images").rglob("*") if path.is_file()):
        data = file.read_bytes()
        try:
            theirs = decode_rgb(data)
        except RequestError:
            theirs = None
        try:
            ours = decoded(data, device)
        except RequestError:
            continue
        if ours is not None:
            decoded_here += 1
            assert theirs is not None, file
            assert np.abs(ours.astype(int) - theirs).mean() < 2, file
    assert decoded_here > 5
