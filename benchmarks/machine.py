"""What this machine and this installation can do, and why not."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

PRECISIONS = ("fp32", "bf16", "int8")


@cache
def why_not(precision: str) -> str:
    """Why our predictor cannot run in a precision here; "" when it can."""
    if precision == "fp32":
        return ""
    if precision == "bf16" and not has_bf16():
        return "this CPU does not calculate in bfloat16 (neither AVX512-BF16 nor AMX)"
    if precision == "int8" and not all(find_spec(name) for name in ("openvino", "nncf")):
        return "OpenVINO and NNCF are not installed (the extra int8)"
    return ""


def best_precision() -> str:
    """The fastest one that needs no calibration."""
    return "fp32" if why_not("bf16") else "bf16"


def has_bf16() -> bool:
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def has_int8() -> bool:
    """Whether integer products are faster than others."""
    import torch

    return bool(torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported())


def why_no_gpu() -> str:
    import torch

    return "" if torch.cuda.is_available() else "no GPU in this machine"
