"""Photos ─▶ the trunk's input: resized, normalised, padded to one size; where the network calculates.

    uint8 RGB, any sizes ─▶ shortest edge as the config says ─▶ (x − mean) / std ─▶ 0 to the right and below

On a GPU the photo itself crosses the bus, a twentieth of the bytes of what is made of it there.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from torch import Tensor

from maskserve.modeling.device import as_numpy
from maskserve.modeling.resize import Size, resize, resize_on_gpu

LONG_STRIDE = 128
"""px: of what the longer side is padded to a multiple for a trunk that is compiled for one size at a time.
608 × 608…1066 px has five sizes either way up."""


class Pixels:
    """Makes batches for one network.

    Args:
        cfg: of the model: its sizes and colour order.
        mean, std: of the model, (3, 1, 1) in its colour order.
        stride: px of what the network wants each side to be a multiple.
        few_sizes: whether the longer side is padded to a multiple of LONG_STRIDE.
        dtype: of what is made on a CPU, float32 or bfloat16.
    """

    def __init__(
        self,
        cfg: CfgNode,
        mean: Tensor,
        std: Tensor,
        *,
        stride: int,
        few_sizes: bool,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._mean, self._std = mean.flatten(), std.flatten()
        self._dtype = torch.float32 if mean.is_cuda else dtype
        levels = torch.arange(256, dtype=torch.float32)[:, None]
        self._table = as_numpy(((levels - self._mean.cpu()) / self._std.cpu()).to(self._dtype))[:, None]
        self._bgr = cfg.INPUT.FORMAT == "BGR"
        self._limits = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        self._strides = (stride, LONG_STRIDE if few_sizes else stride)

    def __call__(self, images: Sequence[np.ndarray], originals: Sequence[Size]) -> tuple[Tensor, list[Size]]:
        """The trunk's input: (B, 3, H, W), channels last, on the device of the model.

        Args:
            images: uint8 (h, w, 3) RGB.
            originals: (height, width) of each photo, where it was decoded smaller.

        Returns:
            The batch, and each image's (height, width) in it.
        """
        sizes = [self.network_size(original) for original in originals]
        height, width = padded_size(sizes, *self._strides)
        batch = torch.empty(len(sizes), height, width, 3, dtype=self._dtype, device=self._mean.device)
        for place, image, size, original in zip(batch, images, sizes, originals, strict=True):
            inside = place[: size[0], : size[1]]
            place[size[0] :], place[: size[0], size[1] :] = 0, 0
            if inside.is_cuda:
                shown = resize_on_gpu(image, size, original, inside.device)
                torch.sub(shown.flip(-1) if self._bgr else shown, self._mean, out=inside).div_(self._std)
            else:
                seen = np.ascontiguousarray(resize(image, size, original))
                if self._bgr:
                    seen = cv2.cvtColor(seen, cv2.COLOR_RGB2BGR)
                cv2.LUT(seen, self._table, dst=as_numpy(inside))  # the same numbers in one pass
        return batch.permute(0, 3, 1, 2), sizes

    def filled(self, sizes: Sequence[Size]) -> Size:
        """(height, width) of what the network needs of a batch of images of those sizes: the rest is for few sizes."""
        stride, _ = self._strides
        return padded_size(sizes, stride, stride)

    def network_size(self, size: Size) -> Size:
        """(height, width) at which the network sees an image of `size`."""
        return network_size(size, *self._limits)


def network_size(size: Size, min_size: int, max_size: int) -> Size:
    """The size at which the network sees an image: shortest edge `min_size`, longest at most `max_size`.

    Detectron2's, but never below 1 px (a 1 × 10,000 image is legal); a `min_size` of 0 leaves the image as it is.
    """
    if min_size <= 0:
        return size
    height, width = ResizeShortestEdge.get_output_shape(*size, min_size, max_size)
    return max(1, height), max(1, width)


def padded_size(sizes: Sequence[Size], stride: int, long_stride: int) -> Size:
    """(height, width) that holds images of all `sizes`: multiples of `stride`, the longer one of `long_stride`."""
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    strides = (long_stride, stride) if height > width else (stride, long_stride)
    return -(-height // strides[0]) * strides[0], -(-width // strides[1]) * strides[1]
