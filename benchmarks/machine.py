"""What this machine and this installation can do, and why not."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import cache

import psutil

PRECISIONS = ("fp32", "bf16", "int8")
_QUIET_PERCENT = 2.0
"""Of a core."""
_TORCHSERVE = "org.pytorch.serve.ModelServer"


@cache
def why_not(precision: str) -> str:
    """Why our predictor cannot run in a precision here; "" when it can."""
    from maskserve.modeling.device import has_fast_bfloat16
    from maskserve.training.quantize import is_installed

    if precision == "bf16" and not has_fast_bfloat16("cpu"):
        return "this CPU does not calculate in bfloat16 (neither AVX512-BF16 nor AMX)"
    if precision == "int8" and not is_installed():
        return "OpenVINO and NNCF are not installed (the extra int8)"
    return ""


def best_precision() -> str:
    """The fastest one that needs no calibration."""
    return "fp32" if why_not("bf16") else "bf16"


def has_int8() -> bool:
    """Whether integer products are faster than others."""
    import torch

    return bool(torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported())


def why_no_gpu() -> str:
    import torch

    return "" if torch.cuda.is_available() else "no GPU in this machine"


def others_that_disturb(watched_s: float = 1.0) -> list[str]:
    """Processes that take time from what is measured here, beside this one and those that started it.

    TorchServe is one of them even when it is idle: two that a stopped test run had left made a model a sixth slower.
    """
    own = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    others = [process for process in psutil.process_iter() if process.pid not in own]
    for process in others:
        with suppress(psutil.Error):
            process.cpu_percent()
    time.sleep(watched_s)
    found = []
    for process in others:
        with suppress(psutil.Error):  # it has ended
            share = process.cpu_percent()
            if share > _QUIET_PERCENT or _TORCHSERVE in process.cmdline():
                found.append(f"{process.name()} (pid {process.pid}, {share:.0f} % of a core)")
    return found
