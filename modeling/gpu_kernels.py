"""Kernels of our own for NVIDIA GPUs: suppression, ROIAlign, depthwise convolutions, sums (`gpu_kernels.cu`).

    gpu_kernels.cu ─▶ NVRTC, which comes with torch ─▶ half a second for each when it is first called

torchvision's suppression runs in one thread of the GPU and its ROIAlign knows neither bfloat16 nor channels last; of
depthwise convolutions cuDNN takes seconds to choose a kernel for each new size; and torch adds a bias in twice the time
that the memory needs. Where torch cannot compile these (AMD's GPUs), its own operators do it.

Shape shorthand: G groups, N boxes of each, B images, C channels, S side of the output, h, w px of a level.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor

from maskserve.modeling.device import current

_LOG = logging.getLogger(__name__)
MOST_BOXES = 8192
"""Of a group: a byte each of a block's shared memory."""
MOST_LEVELS = 4
STRIP = 4
"""Pixels of a row that a thread convolves."""
VECTOR_BYTES = 16
STORED = {torch.float32: "float", torch.bfloat16: "unsigned short"}
"""What the kernels call a dtype."""


def can_run_on(tensor: Tensor) -> bool:
    """Whether there are kernels for where a tensor lies."""
    return tensor.is_cuda and torch.version.hip is None and _compile(tensor.device)


def takes(dtype: torch.dtype, channels: int) -> bool:
    """Whether the kernels know the dtype, and channels of it fill whole vectors."""
    return dtype in STORED and channels * dtype.itemsize % VECTOR_BYTES == 0


def can_pool(features: Sequence[Tensor]) -> bool:
    """Whether `pool` can read a pyramid."""
    first = features[0]
    return can_run_on(first) and takes(first.dtype, first.shape[1]) and len(features) <= MOST_LEVELS


def survivors(boxes: Tensor, usable: Tensor, threshold: float, classes: Tensor) -> Tensor:
    """See `maskserve.modeling.survivors`, whose first answer this is. Of up to MOST_BOXES boxes."""
    groups, count = usable.shape
    words = -(-count // 32)
    bits = torch.empty(groups, words, count, dtype=torch.int32, device=boxes.device)
    kept = torch.empty_like(usable)
    each = 128
    sides = (-(-count // each), words, groups)
    _launch("overlaps", boxes, sides, each, boxes.contiguous(), classes.contiguous(), bits, count, float(threshold))
    _launch("survivors", boxes, (groups, 1, 1), 1024, bits, usable.contiguous(), kept, count)
    return kept


def pool(features: Sequence[Tensor], boxes: Tensor, pooler: ROIPooler) -> Tensor:
    """What `pooler` makes of a pyramid, to rounding.

    Args:
        features: (B, C, h, w), channels last, the largest first (see `can_pool`).
        boxes: float32 (B, N, 4), xyxy in px of the network's input, inside the image.

    Returns:
        (B · N, C, S, S), channels last, of the features' dtype.
    """
    channels, (each, side) = features[0].shape[1], (boxes.shape[1], pooler.output_size[0])
    out = torch.empty(
        (len(boxes) * each, channels, side, side),
        dtype=features[0].dtype,
        device=boxes.device,
        memory_format=torch.channels_last,
    )
    levels: list[Any] = []
    for feature, align in zip(features, pooler.level_poolers, strict=True):
        image = feature.contiguous(memory_format=torch.channels_last)
        levels += [image, *feature.shape[2:], float(align.spatial_scale)]
    levels += levels[:4] * (MOST_LEVELS - len(features))  # of which it reads nothing
    sizes = (len(features), channels, each, side, int(pooler.level_poolers[0].sampling_ratio), int(pooler.min_level))
    canonical = float(pooler.canonical_box_size), float(pooler.canonical_level)
    _launch("pool", out, (len(out), 1, 1), 256, *levels, boxes.contiguous(), out, *sizes, *canonical)
    return out


def depthwise(
    image: Tensor,
    weights: Tensor,
    bias: Tensor,
    *,
    stride: int,
    dilation: int,
    limits: tuple[float, float],
    cut_inputs: bool,
) -> Tensor:
    """A depthwise 3×3 convolution, padded by its dilation, with its bias, cut to `limits` (least, most).

    Strides are 1 or 2, and 1 where there is a dilation.

    Args:
        image: (B, C, h, w), channels last (see `takes`).
        weights: float32 (3, 3, C).
        bias: float32 (C,).
        cut_inputs: whether the inputs are to be cut likewise first.
    """
    count, channels, height, width = image.shape
    high, wide = (height - 1) // stride + 1, (width - 1) // stride + 1
    out = torch.empty(
        (count, channels, high, wide), dtype=image.dtype, device=image.device, memory_format=torch.channels_last
    )
    strips = -(-wide // (STRIP * dilation)) * dilation
    threads = count * high * strips * (channels * image.element_size() // VECTOR_BYTES)
    parts = (image.contiguous(memory_format=torch.channels_last), weights, bias, out)
    sizes = (count, height, width, channels, stride, dilation)
    _launch_flat("depthwise", image, threads, *parts, *sizes, *limits, int(cut_inputs))
    return out


def add_bias(image: Tensor, bias: Tensor, limits: tuple[float, float]) -> Tensor:
    """(B, C, h, w), channels last, plus float32 (C,), cut to `limits` (least, most): in place."""
    vectors = image.numel() * image.element_size() // VECTOR_BYTES
    _launch_flat("add_bias", image, vectors, image, bias, vectors, image.shape[1], *limits)
    return image


def add_doubled(level: Tensor, above: Tensor) -> Tensor:
    """A pyramid's level (B, C, h, w) plus the one above it (B, C, h / 2, w / 2), whose pixels count four times each:
    in place. Both channels last."""
    count, channels, height, width = level.shape
    vectors = level.numel() * level.element_size() // VECTOR_BYTES
    _launch_flat("add_doubled", level, vectors, level, above, count, height, width, channels)
    return level


def _launch_flat(name: str, like: Tensor, threads: int, *args: Any) -> None:
    each = 128
    _launch(name, like, (-(-threads // each), 1, 1), each, *args)


def _launch(name: str, like: Tensor, grid: tuple[int, int, int], block: int, *args: Any) -> None:
    _kernel(name, STORED[like.dtype], like.device)(grid=grid, block=(block, 1, 1), args=list(args))


@cache
def _compile(device: torch.device) -> bool:
    """Whether kernels can be compiled for the device; tried out once, for torch promises nothing about its function."""
    try:
        _kernel("add_bias", "float", device)
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        _LOG.warning("no kernels of our own on %s, which takes twice as long with torch's: %s", device, error)
        return False
    return True


@cache
def _kernel(name: str, stored: str, device: torch.device) -> Any:
    """A kernel for the device and on it."""
    with current(device):
        return torch.cuda._compile_kernel(source(stored), name)


def source(stored: str) -> str:
    """The kernels in CUDA C++, for features in one of `STORED`."""
    values = {"STORED": stored, "STRIP": STRIP, "MOST_BOXES": MOST_BOXES}
    defined = "".join(f"#define {name} {value}\n" for name, value in values.items())
    return defined + Path(__file__).with_suffix(".cu").read_text(encoding="utf-8")
