"""A photo's pixels, whole or decoded smaller ─▶ the size at which the network sees it.

Pillow's bilinear filter (it averages when it shrinks), computed by torch: the same to a grey level, four to eight
times faster (docs/benchmarks.md).
"""

from __future__ import annotations

import numpy as np
import torch

Size = tuple[int, int]
"""(height, width), px."""


def resize(image: np.ndarray, size: Size, original: Size | None = None) -> np.ndarray:
    """The image at another size: uint8 (*size, 3), C-contiguous; `image` itself when it has that size.

    Args:
        image: uint8 (h, w, 3).
        size: wanted.
        original: of the photo, where `image` was decoded at 1/2, 1/4 or 1/8 of it. A side that this does not divide
            has a last pixel that lies partly outside the photo, and is sampled so.
    """
    here = image.shape[:2]
    if here == size:
        return image
    whole = original or here
    # the pixels that the photo itself fills, 500.25 of 501
    filled = [side / round(side / pixels) for side, pixels in zip(whole, here, strict=True)]
    scales = [wanted / pixels for wanted, pixels in zip(size, filled, strict=True)]
    batch = torch.from_numpy(np.require(image, requirements=("C", "W")))[None].permute(0, 3, 1, 2)
    # interpolate() itself takes a size or scales, never both
    done = torch.ops.aten._upsample_bilinear2d_aa(batch, list(size), False, *scales)
    return np.ascontiguousarray(done[0].permute(1, 2, 0).numpy())
