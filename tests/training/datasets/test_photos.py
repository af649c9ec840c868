"""Photos in training have the pixels that they have when they are served."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from maskserve.imaging.decode import decode_rgb
from maskserve.training.datasets.photos import decode_photo, orientation, photo_size
from tests.training.datasets.labelme_files import ORIENTATION_TAG


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(mode: str) -> Image.Image:
    """With values of a camera of 12 bits where a mode has 16, and of all transparencies."""
    numbers = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(numbers.integers(300, 4000, (20, 30), np.uint16))
    channels = len(Image.new(mode, (1, 1)).getbands())
    return Image.fromarray(numbers.integers(0, 256, (20, 30, channels), np.uint8).squeeze(), mode)


@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")
@pytest.mark.parametrize(
    ("mode", "kind"),
    [("I;16", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("RGBA", "WEBP"), ("RGB", "JPEG"), ("CMYK", "JPEG")],
)
def test_pixels_are_the_servers(mode: str, kind: str) -> None:
    data = encoded(picture(mode), kind)
    np.testing.assert_array_equal(decode_photo(data), decode_rgb(data))


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("mode", ["I;16", "RGB"])
def test_what_the_server_refuses_is_read_likewise(mode: str, turned: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = turned
    tiff, png = (encoded(picture(mode), kind, exif=exif) for kind in ("TIFF", "PNG"))
    np.testing.assert_array_equal(decode_photo(tiff), decode_rgb(png))
    assert photo_size(tiff) == decode_rgb(png).shape[:2]
    assert orientation(tiff) == turned


def test_exif_that_is_damaged_behind_the_orientation_loses_no_photo() -> None:
    """Pillow reads the text in the place of a number, and cannot write it again."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG], exif[0x0106] = 6, 2
    before, _, after = exif.tobytes().partition(b"\x01\x06\x00\x03\x00\x00\x00\x01")
    damaged = before + b"\x01\x06\x00\x02\x00\x00\x00\x06\x00\x00\x00\x08" + after[4:]
    assert decode_photo(encoded(Image.new("RGB", (80, 60)), "JPEG", exif=damaged)).shape == (80, 60, 3)
