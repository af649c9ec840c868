"""Loops that numba compiles to machine code: ROIAlign both ways, the RPN's boxes, suppression. Loaded by
`maskserve.modeling.compiled`.

They give Python's lock free while they run. Compiled code is kept beside this file, where it may be written.

ROIAlign (He et al., "Mask R-CNN", 2017, section 3) averages bilinear samples in each cell of a box. Bilinear weights
are a product of a weight in y and one in x, and so is their sum over a regular grid of samples: so it is enough to
know, for each row and each column that a cell's samples touch, the sum of its weights. That is a quarter of the reads.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numba
import numpy as np
from numba.extending import overload

_compiled: Any = partial(numba.njit, nogil=True)
# "reassoc" and "contract" allow vectors and fused multiply-adds; infinities and NaN keep their meaning
_calculating: Any = partial(_compiled, fastmath={"reassoc", "contract"})


def _taps(start: Any, stop: Any, cells: int, ratio: int, length: int) -> Any:
    """(first pixel of each cell (S,), weights of the pixels from there on (S, K)) along one axis.

    As torchvision's kernel has it: samples further than a pixel outside count 0, others are moved to the edge; without
    a sampling ratio there is one sample a pixel, rounded up.
    """
    cell = (stop - start) / np.float32(cells)
    samples = ratio if ratio > 0 else int(np.ceil(cell))
    # one more than the samples can touch, since a place may be rounded up
    reach = 3 if samples < 2 else int(np.ceil((samples - 1) * cell / samples)) + 3
    first = np.zeros(cells, np.int64)
    weights = np.zeros((cells, reach), np.float32)
    for index in range(cells):
        for sample in range(samples):
            place = (
                start + np.float32(index) * cell + (np.float32(sample) + np.float32(0.5)) * cell / np.float32(samples)
            )
            inside = -1.0 <= place <= length
            place = min(max(place, np.float32(0)), np.float32(length - 1))
            below = int(place)
            if sample == 0:
                first[index] = below
            if inside:
                upper = place - np.float32(below)
                weights[index, below - first[index]] += (np.float32(1) - upper) / np.float32(samples)
                if upper > 0:
                    weights[index, below - first[index] + 1] += upper / np.float32(samples)
    return first, weights


taps = _calculating(_taps)


def value(stored: Any) -> Any:
    """A feature's number as float32. Of uint16, here and below: bfloat16's bits, the upper half of float32's."""
    raise NotImplementedError("compiled only")


def store(total: Any, out: Any) -> None:
    """float32 to float32 as it is; or to uint16, each rounded to the nearest."""
    raise NotImplementedError("compiled only")


@overload(value)
def _value(stored: Any) -> Any:
    def of_bits(stored: Any) -> Any:
        return np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)

    def itself(stored: Any) -> Any:
        return np.float32(stored)

    return of_bits if stored == numba.types.uint16 else itself


@overload(store)
def _store(total: Any, out: Any) -> Any:  # noqa: ARG001 — the names are `store`'s
    def as_bits(total: Any, out: Any) -> None:
        bits = total.view(np.uint32)
        for place in range(bits.shape[0]):
            # half of the last bit that stays, and in the middle a bit less where that bit is even
            rounded = bits[place] + np.uint32(0x7FFF) + ((bits[place] >> np.uint32(16)) & np.uint32(1))
            out[place] = rounded >> np.uint32(16)

    def as_it_is(total: Any, out: Any) -> None:
        out[:] = total

    return as_bits if out.dtype == numba.types.uint16 else as_it_is


def _pool(
    pixels: Any,
    scale: Any,
    zero_point: Any,
    image_of: Any,
    boxes: Any,
    ratio: int,
    places: Any,
    target: Any,
) -> None:
    """`pixels`: float32, bfloat16's bits, or uint8 that stand for (stored - zero_point) · scale."""
    _, height, width, channels = pixels.shape
    side = target.shape[1]
    total = np.empty(channels, np.float32)
    for index in range(boxes.shape[0]):
        first_x, weight_x = taps(boxes[index, 0], boxes[index, 2], side, ratio, width)
        first_y, weight_y = taps(boxes[index, 1], boxes[index, 3], side, ratio, height)
        for cell_y in range(side):
            for cell_x in range(side):
                total[:] = 0
                covered = np.float32(0)
                for row in range(weight_y.shape[1]):
                    for column in range(weight_x.shape[1]):
                        weight = weight_y[cell_y, row] * weight_x[cell_x, column]
                        if weight == 0:
                            continue
                        covered += weight
                        pixel = pixels[image_of[index], first_y[cell_y] + row, first_x[cell_x] + column]
                        for channel in range(channels):
                            total[channel] += weight * value(pixel[channel])
                nothing = zero_point * covered
                for channel in range(channels):
                    total[channel] = (total[channel] - nothing) * scale
                store(total, target[places[index], cell_y, cell_x])


pool = _calculating(_pool)


def _spread(cells: Any, image_of: Any, boxes: Any, ratio: int, places: Any, pixels: Any, first: int, last: int) -> None:
    _, height, width, _ = pixels.shape
    side = cells.shape[1]
    for index in range(boxes.shape[0]):
        first_x, weight_x = taps(boxes[index, 0], boxes[index, 2], side, ratio, width)
        first_y, weight_y = taps(boxes[index, 1], boxes[index, 3], side, ratio, height)
        for cell_y in range(side):
            for cell_x in range(side):
                cell = cells[places[index], cell_y, cell_x, first:last]
                for row in range(weight_y.shape[1]):
                    for column in range(weight_x.shape[1]):
                        weight = weight_y[cell_y, row] * weight_x[cell_x, column]
                        if weight == 0:
                            continue
                        pixel = pixels[image_of[index], first_y[cell_y] + row, first_x[cell_x] + column, first:last]
                        for channel in range(cell.shape[0]):
                            pixel[channel] += weight * cell[channel]


spread = _calculating(_spread)


def _first_apart(boxes: Any, groups: Any, group_count: int, threshold: float, most: int) -> Any:
    """Places among the boxes, in their order."""
    size = min(boxes.shape[0], most)
    kept = np.empty((group_count, size), np.int64)
    counts = np.zeros(group_count, np.int64)
    chosen = np.empty(size, np.int64)
    found = 0
    for index in range(boxes.shape[0]):
        if found == size:
            break
        group = groups[index]
        left, top, right, bottom = boxes[index, 0], boxes[index, 1], boxes[index, 2], boxes[index, 3]
        area = (right - left) * (bottom - top)
        apart = True
        for place in range(counts[group]):
            other = kept[group, place]
            width = min(right, boxes[other, 2]) - max(left, boxes[other, 0])
            height = min(bottom, boxes[other, 3]) - max(top, boxes[other, 1])
            if width > 0 and height > 0:
                inside = width * height
                others = (boxes[other, 2] - boxes[other, 0]) * (boxes[other, 3] - boxes[other, 1])
                if inside / (others + area - inside) > threshold:
                    apart = False
                    break
        if apart:
            kept[group, counts[group]] = index
            counts[group] += 1
            chosen[found] = index
            found += 1
    return chosen[:found]


first_apart = _compiled(_first_apart)


def _boxes_at(
    places: Any,
    deltas: Any,
    cell: Any,
    grid: Any,
    weights: Any,
    most: float,
    limits: Any,
    least: float,
    boxes: Any,
    usable: Any,
) -> None:
    """The RPN's boxes of some places of a level, clipped to the image; which of them are finite and have an inside.

    Args:
        places: (k,), in the order of flat logits (h, w, A).
        deltas: (h, w, 4 A), float32 or bfloat16's bits.
        cell: (A, 4), the anchors around the first place.
        grid: (stride, offset) of the places, px and strides.
        weights, most: of Detectron2's Box2BoxTransform: what deltas are divided by, the largest logarithm of a size.
        limits: (height, width) of the image, px.
        least: each side of a box is longer.
        boxes, usable: (k, 4) and (k,), which are written.
    """
    columns, anchors = deltas.shape[1], cell.shape[0]
    for index in range(places.shape[0]):
        spot, anchor = divmod(places[index], anchors)
        for axis in range(2):
            at = (spot // columns if axis else spot % columns) + grid[1]
            low, high = cell[anchor, axis] + at * grid[0], cell[anchor, axis + 2] + at * grid[0]
            delta = deltas[spot // columns, spot % columns, 4 * anchor : 4 * anchor + 4]
            middle = low + (high - low) / 2 + value(delta[axis]) / weights[axis] * (high - low)
            half = np.exp(min(value(delta[axis + 2]) / weights[axis + 2], most)) * (high - low) / 2
            boxes[index, axis], boxes[index, axis + 2] = middle - half, middle + half
        usable[index] = True
        for side in range(4):
            usable[index] &= np.isfinite(boxes[index, side])
            boxes[index, side] = min(max(boxes[index, side], 0), limits[1 - side % 2])
        for axis in range(2):
            usable[index] &= boxes[index, axis + 2] - boxes[index, axis] > least


boxes_at = _compiled(_boxes_at)
