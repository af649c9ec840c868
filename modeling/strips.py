"""An inverted residual in strips of rows, so that what it expands is still in the CPU's cache when it is projected.

    rows of x, and one more above and below ─▶ expand ─▶ depthwise ─▶ project ─▶ rows of the output

For CPUs and numbers of threads that `maskserve.modeling.residual` is not for. Rows at the seams are expanded twice, and
each strip costs three calls: so only of large maps.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from maskserve.modeling.mobilenetv2 import InvertedResidual

LARGE_BYTES = 16 * 2**20
"""Hidden maps from which strips pay. Where less is in the way, three calls cost more than the memory does."""
STRIP_BYTES = 10 * 2**20
"""About so much of them is worked on at once."""


def strips(block: InvertedResidual, x: Tensor) -> list[tuple[int, int]]:
    """(first row, last row, exclusive) of the output for each strip; one for all of it where more would not pay."""
    depthwise: Any = block.depthwise
    rows = -(-x.shape[2] // depthwise.stride[0])
    hidden_bytes = x[:, 0].numel() * depthwise.in_channels * x.element_size()
    expands = getattr(block.expand, "kernel_size", None) == (1, 1)
    pays = hidden_bytes > LARGE_BYTES and depthwise.dilation == (1, 1) and expands
    count = min(rows, -(-hidden_bytes // STRIP_BYTES)) if pays else 1
    step = -(-rows // count)
    return [(top, min(top + step, rows)) for top in range(0, rows, step)]


def hidden_rows(block: InvertedResidual, x: Tensor, top: int, bottom: int) -> Tensor:
    """The rows `top` to `bottom` of what the block projects."""
    stride = block.depthwise.stride[0]
    first = max(0, (top - 1) * stride)
    seen = x[:, :, first : bottom * stride + 2 - stride]
    done = block.depthwise(block.expand(seen))
    skipped = top - first // stride
    return done[:, :, skipped : skipped + bottom - top]
