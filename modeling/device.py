"""What this machine calculates on, and in what."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from maskserve.protos.errors import ConfigError

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""From the most exact."""


def pick_device(device: str) -> str:
    """The device itself, or for "auto" a GPU when there is one."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def has_fast_bfloat16(device: str) -> bool:
    """Whether the device ("cpu", "cuda", "cuda:1") calculates in bfloat16; where it is emulated, float32 is faster."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported())


def has_vectors(dtype: torch.dtype, *kinds: str) -> bool:
    """Whether the CPU has the vectors of one of those kinds ("AVX2", "AVX512"), and no AMX for that dtype: with which
    others multiply so fast that our own kernels take what they save."""
    amx = dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
    return torch.backends.cpu.get_cpu_capability() in kinds and not amx


def multiplies_int8() -> bool:
    """Whether our own layers were seen to be faster in int8: with VNNI; with AMX nobody has measured them."""
    return bool(torch.cpu._is_vnni_supported() and not torch.cpu._is_amx_tile_supported())


def current(device: torch.device) -> AbstractContextManager[object]:
    """Whatever asks for the GPU without naming one means this one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def as_numpy(tensor: Tensor) -> np.ndarray:
    """The same memory; numpy has no bfloat16, so that is uint16."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def check_precision(precision: str, device: str) -> Precision:
    """`precision`; ConfigError for one that there is not, or that the device ("cpu", "cuda") would only emulate."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r}: choose {', '.join(PRECISIONS)}")
    if precision == "bf16" and not has_fast_bfloat16(device):
        what = "this GPU" if device.startswith("cuda") else "this CPU (it lacks AVX512-BF16)"
        raise ConfigError(
            f"precision bf16: {what} does not calculate in bfloat16 and would emulate it, slower than fp32; package "
            "the run for this machine with `maskserve package --precision auto` or --precision fp32"
        )
    return precision
