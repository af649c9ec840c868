"""JPEGs decoded by an NVIDIA GPU (nvJPEG, through torchvision), where its pixels are wanted anyway.

    bytes ─▶ checked header ─▶ a plain, whole JPEG? ─▶ nvJPEG ─▶ upright, on the GPU
                                        └─ no, or it fails ─▶ None: the CPU decodes it, or says what is wrong with it

Of a damaged file nvJPEG shows what it has got, or fails without a reason.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from maskserve.imaging.header import ImageHeader, open_image
from maskserve.modeling.resize import Size

_PLAIN_MODES = ("RGB", "L")
_COMPONENTS = (1, 2, 3)
"""How files name luminance and colours; others mean another colour space (libjpeg.txt, "special color spaces")."""
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
"""Markers (ITU-T T.81, annex B)."""
_UPRIGHT: dict[int, Callable[[Tensor], Tensor]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels.flip(1),
    3: lambda pixels: pixels.flip(0, 1),
    4: lambda pixels: pixels.flip(0),
    5: lambda pixels: pixels.transpose(0, 1),
    6: lambda pixels: pixels.transpose(0, 1).flip(1),
    7: lambda pixels: pixels.transpose(0, 1).flip(0, 1),
    8: lambda pixels: pixels.transpose(0, 1).flip(0),
}
"""What undoes each EXIF orientation (Exif 2.3, tag 0x0112)."""


def decode_on_gpu(data: bytes, device: torch.device) -> tuple[Tensor, Size] | None:
    """All pixels of a JPEG, uint8 (H, W, 3) RGB, upright, on `device`, and its (height, width); None of other files.

    Raises RequestError as `maskserve.imaging.header.inspect_image`.
    """
    image, header = open_image(data)
    if not _is_plain(image, header) or not _is_whole(data):
        return None
    try:
        file = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        pixels = decode_jpeg(file, mode=ImageReadMode.RGB, device=device).permute(1, 2, 0)
    except RuntimeError as error:
        if isinstance(error, torch.AcceleratorError):
            raise  # the GPU is lost, not the photo
        return None
    return _UPRIGHT[header.orientation](pixels), header.size


def _is_plain(image: ImageFile, header: ImageHeader) -> bool:
    """Whether it is a JPEG in grey or in the usual colour space."""
    if not isinstance(image, JpegImageFile) or header.mode not in _PLAIN_MODES:
        return False
    names = tuple(component[0] for component in image.layer)
    return len(names) == 1 or (names == _COMPONENTS and image.info.get("adobe_transform", 1) == 1)


def _is_whole(data: bytes) -> bool:
    """Whether the end comes after the last scan: what is between holds neither marker."""
    return data.rfind(_END) > data.rfind(_SCAN)
