"""Fully connected layers in int8: twice as fast as in bfloat16 on a CPU with VNNI, four times as in float32.

    rows, each in units of its own ─▶ uint8 ─▶ products ─▶ × units, + bias ─▶ float32

A row is rounded in 127ths of its largest number: no photo has to show its range before. Weights are rounded for each
number of the output.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor, nn, ops

from maskserve.modeling import compiled
from maskserve.modeling.device import as_numpy, multiplies_int8
from maskserve.modeling.process import run_at_once

MIDDLE = 128
"""What 0 is rounded to: oneDNN multiplies uint8 by int8, as the CPU does."""
MOST = 127


class Int8Linear(nn.Module):
    """Of one layer that suits, and no longer learns: of the weights that it has when this is made."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        units, whole = in_units(weight)
        self._units, self._zeros = units, torch.zeros(len(units), dtype=torch.int32)
        self._middle = -MIDDLE * whole.sum(1) * units
        self._packed = ops.onednn.qlinear_prepack(whole.to(torch.int8), None)
        self._bias = torch.zeros(len(units)) if linear.bias is None else linear.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """(R, C), float32 or bfloat16 ─▶ float32 (R, C')."""
        if not len(x):
            return x.new_empty(0, len(self._units), dtype=torch.float32)
        numbers, units = _rounded(x)
        products = ops.onednn.qlinear_pointwise(
            *(numbers, 1.0, 0, self._packed, self._units, self._zeros, self._middle),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        return torch.addcmul(self._bias, products, units[:, None])


def layer_suits_int8(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether it can be done so here, and was seen to be faster."""
    known = all(hasattr(ops.onednn, name) for name in ("qlinear_prepack", "qlinear_pointwise"))
    plain = type(layer) is nn.Linear and layer.in_features % compiled.NUMBERS_AT_ONCE == 0
    return plain and known and multiplies_int8() and compiled.is_there()


def in_units(rows: Tensor) -> tuple[Tensor, Tensor]:
    """What 1 stands for in each row, (R,), and whole numbers of it, -127..127: of (R, C), in its dtype."""
    units = rows.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / MOST
    return units, (rows / units[:, None]).round()


def _rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 (R, C), around `MIDDLE`, and what 1 stands for in each row, float32 (R,); on all threads."""
    numbers, units = torch.empty(x.shape, dtype=torch.uint8), torch.empty(len(x))
    places = np.linspace(0, len(x), torch.get_num_threads() + 1).astype(int)
    arrays = (as_numpy(x.contiguous()), as_numpy(numbers), as_numpy(units))
    run_at_once(compiled.int8_kernels().round_rows, [(*arrays, *part) for part in pairwise(places)])
    return numbers, units
