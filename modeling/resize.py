"""A photo's pixels, whole or decoded smaller ─▶ the size at which the network sees it.

Pillow's bilinear filter (it averages when it shrinks), computed by torch: the same to a grey level, four to eight
times faster on a CPU (docs/benchmarks.md).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Size = tuple[int, int]
"""(height, width), px."""
MOST_SHRINK_ON_GPU = 32.0
"""Further, torch's kernel can lack the shared memory for its filter."""


def resize(image: np.ndarray, size: Size, original: Size | None = None) -> np.ndarray:
    """The image at another size: uint8 (*size, 3), C-contiguous; `image` itself when it has that size.

    Args:
        image: uint8 (h, w, 3).
        size: wanted.
        original: of the photo, where `image` was decoded at 1/2, 1/4 or 1/8 of it. A side that this does not divide
            has a last pixel that lies partly outside the photo, and is sampled so.
    """
    if image.shape[:2] == size:
        return image
    done = _resample(_as_tensor(image)[None].permute(0, 3, 1, 2), size, original or image.shape[:2])
    return np.ascontiguousarray(done.permute(1, 2, 0).numpy())


def resize_on_gpu(image: np.ndarray, size: Size, original: Size, device: torch.device) -> Tensor:
    """The same, to a grey level, on `device`: float32 (*size, 3) of whole numbers."""
    if max(here / wanted for here, wanted in zip(image.shape, size, strict=False)) > MOST_SHRINK_ON_GPU:
        image = resize(image, size, original)
    pixels = _as_tensor(image)
    if device.type == "cuda":
        pixels = pixels.pin_memory()  # so that this process need not wait for the copy
    pixels = pixels.to(device, non_blocking=True)
    if image.shape[:2] == size:
        return pixels.float()
    done = _resample(pixels[None].permute(0, 3, 1, 2).float().contiguous(), size, original)
    return done.round_().clamp_(0, 255).permute(1, 2, 0)


def _resample(batch: Tensor, size: Size, original: Size) -> Tensor:
    """(1, 3, h, w) ─▶ (3, *size); on a CPU twice as fast where it sees that the batch is channels last."""
    here = batch.shape[2:]
    # the pixels that the photo itself fills, 500.25 of 501
    filled = [side / round(side / pixels) for side, pixels in zip(original, here, strict=True)]
    scales = [wanted / pixels for wanted, pixels in zip(size, filled, strict=True)]
    # interpolate() itself takes a size or scales, never both
    done: Tensor = torch.ops.aten._upsample_bilinear2d_aa(batch, list(size), False, *scales)
    return done[0]


def _as_tensor(image: np.ndarray) -> Tensor:
    """The image's own memory where torch can use it, else a copy."""
    return torch.from_numpy(np.require(image, requirements=("C", "W")))
