"""Pictures as files: every reader reads them, and PNG loses nothing."""

from __future__ import annotations

from io import BytesIO
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from maskserve.imaging.encode import encode_picture
from maskserve.protos.errors import RequestError
from maskserve.protos.types import ErrorCode

Kind = Literal["png", "jpeg"]


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("writeable", [True, False])
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_pictures_are_files_of_their_kind(kind: Kind, writeable: bool) -> None:
    """The encoded picture is of the kind asked for, in RGB order; the pixels stay what they were."""
    red = np.full((10, 20, 3), (250, 10, 10), np.uint8)
    red.flags.writeable = writeable
    image = Image.open(BytesIO(encode_picture(red, kind)))
    assert (red == (250, 10, 10)).all()
    assert image.format == kind.upper()
    assert image.size == (20, 10)
    assert image.convert("RGB").getpixel((5, 5))[0] > 240  # type: ignore[index]


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 1000))
def test_a_png_is_the_same_pixels_for_two_readers(height: int, width: int, seed: int) -> None:
    """Pillow checks each chunk's sum and the stream's, libpng (OpenCV) the filter and the size."""
    pixels = noise(height, width, seed)
    file = encode_picture(pixels, "png")
    assert (np.asarray(Image.open(BytesIO(file))) == pixels).all()
    assert (cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] == pixels).all()


@pytest.mark.parametrize("size", [(1, 900_000), (3000, 1100), (700_000, 1)])
def test_large_pictures_are_written_in_bands(size: tuple[int, int]) -> None:
    """More than a band in one row, bands that do not divide the height, rows of three bytes: nothing is lost."""
    ramp = np.arange(np.prod(size), dtype=np.uint32).reshape(size)
    pixels = np.stack([ramp >> 16, ramp >> 8, ramp], axis=2).astype(np.uint8)
    file = encode_picture(pixels, "png")
    assert file.count(b"IDAT") > 1
    assert (np.asarray(Image.open(BytesIO(file))) == pixels).all()


def test_a_part_of_a_picture_can_be_written() -> None:
    """Rows that do not follow each other in memory."""
    part = noise(30, 30)[3:20, 5:25]
    assert (np.asarray(Image.open(BytesIO(encode_picture(part, "png")))) == part).all()


@pytest.mark.parametrize("size", [(65_501, 2), (2, 65_501)])
def test_what_is_too_long_for_a_jpeg_is_its_senders_error(size: tuple[int, int]) -> None:
    """It says what a JPEG can have and what to do; a pixel less is written, and PNG takes it."""
    pixels = np.zeros((*size, 3), np.uint8)
    with pytest.raises(RequestError, match=r"65500 px a side.*Ask for PNG") as caught:
        encode_picture(pixels, "jpeg")
    assert caught.value.code is ErrorCode.IMAGE_TOO_LARGE
    longest = pixels[:65_500, :65_500]
    assert max(Image.open(BytesIO(encode_picture(longest, "jpeg"))).size) == 65_500
    assert Image.open(BytesIO(encode_picture(pixels, "png"))).size == size[::-1]


@pytest.mark.parametrize("kind", ["png", "jpeg"])
@pytest.mark.parametrize(
    "pixels",
    [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((0, 5, 3), np.uint8), np.zeros((5, 5, 3))],
)
def test_other_pixels_are_refused(kind: Kind, pixels: NDArray[np.uint8]) -> None:
    """Grey, with transparency, none at all, not uint8: the message says what they are."""
    with pytest.raises(ValueError, match="cannot be written"):
        encode_picture(pixels, kind)
