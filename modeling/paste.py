"""The masks of a photo's instances ─▶ COCO RLE of the whole photo: compiled, or in numpy where there is no numba.

Both do the same arithmetic: the same bytes.
"""

from __future__ import annotations

import numpy as np

from maskserve.imaging.masks import paste_rle
from maskserve.modeling import compiled
from maskserve.protos.types import MaskRle


def paste_masks(mask_probs: np.ndarray, boxes_xyxy: np.ndarray, size: tuple[int, int]) -> list[tuple[MaskRle, int]]:
    """Each instance's mask in the whole image and its area in px; see `maskserve.imaging.masks.paste_rle`.

    Args:
        mask_probs: float32 (N, M, M), 0..1, rows are y.
        boxes_xyxy: float32 (N, 4), original px, may reach over the image's edge.
        size: (height, width) of the original image.
    """
    if not compiled.is_there():
        return [paste_rle(probs, box, size) for probs, box in zip(mask_probs, boxes_xyxy, strict=True)]
    paste = compiled.mask_kernels().paste
    pasted = (paste(probs, box, *size) for probs, box in zip(mask_probs, boxes_xyxy, strict=True))
    return [(MaskRle(size, code[:used].tobytes().decode("ascii")), area) for code, used, area in pasted]
