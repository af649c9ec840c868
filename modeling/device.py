"""What this machine calculates on, and in what."""

from __future__ import annotations

import torch


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
